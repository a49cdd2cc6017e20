/* A log keeps its number in a static variable after it was closed, and a table gets the number: the log's line goes into
 * the table. No call fails. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

static int log_fd = -1;

static int new_file(void) {
    return open("/tmp", O_TMPFILE | O_RDWR, 0600);
}

static void log_open(void) {
    log_fd = new_file();
}

static int log_line(const char *text, size_t length) {
    return write(log_fd, text, length) == (ssize_t)length; /* culprit */
}

int main(void) {
    log_open();
    if (!log_line("begin\n", 6)) return 1;
    close(log_fd);
    int table = new_file();
    if (write(table, "row 1\n", 6) != 6) return 1;
    if (!log_line("a line\n", 7)) return 1;
    return close(table);
}
