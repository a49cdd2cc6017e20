/* Correct: a daemon closes every number that there might be, before it opens anything. */
#include <fcntl.h>
#include <unistd.h>

int main(void) {
    for (int fd = 3; fd < 256; fd++) close(fd);
    int fd = open("/dev/zero", O_RDONLY);
    return close(fd);
}
