/* Correct: the standard output is saved, sent elsewhere, and put back. */
#include <fcntl.h>
#include <unistd.h>

int main(void) {
    int saved = dup(1), null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    close(null);
    if (write(1, "x", 1) != 1) return 1;
    dup2(saved, 1);
    return close(saved);
}
