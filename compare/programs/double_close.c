/* Two parts of a program close one number; a thread is there that could have taken it in between. */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

static int ends[2];

static void *wait_for_the_end(void *unused) {
    char byte;
    return read(ends[0], &byte, 1) == 1 ? unused : NULL;
}

int main(void) {
    pthread_t thread;
    if (pipe(ends) || pthread_create(&thread, NULL, wait_for_the_end, NULL)) return 1;
    int fd = open("/dev/zero", O_RDONLY);
    close(fd);
    close(fd); /* culprit */
    if (write(ends[1], "x", 1) != 1) return 1;
    return pthread_join(thread, NULL);
}
