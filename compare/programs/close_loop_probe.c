/* Correct: the same, asking first. */
#include <fcntl.h>
#include <unistd.h>

int main(void) {
    for (int fd = 3; fd < 256; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) close(fd);
    }
    int fd = open("/dev/zero", O_RDONLY);
    if (close(fd)) return 1;
    return fcntl(fd, F_GETFD) >= 0;
}
