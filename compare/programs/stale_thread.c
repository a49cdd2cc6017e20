/* One thread closes a number that another one still uses, with nothing between them that says when. */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

static int fd;

static void *use(void *unused) {
    char byte;
    for (int i = 0; i < 50; i++) {
        if (read(fd, &byte, 1) < 0) break;
        usleep(1000);
    }
    return unused;
}

int main(void) {
    pthread_t thread;
    fd = open("/dev/zero", O_RDONLY);
    if (pthread_create(&thread, NULL, use, NULL)) return 1;
    usleep(10000);
    close(fd); /* culprit */
    return pthread_join(thread, NULL);
}
