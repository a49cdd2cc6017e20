/* Read after close. */
#include <fcntl.h>
#include <unistd.h>

int main(void) {
    char byte;
    int fd = open("/dev/zero", O_RDONLY);
    if (read(fd, &byte, 1) != 1) return 1;
    close(fd); /* culprit */
    return read(fd, &byte, 1) == 1;
}
