/* A log keeps its number after it was closed, and a table gets it: the log's line goes into the table. No call fails. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int new_file(void) {
    char name[] = "/tmp/fdtrace-compare-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    return fd;
}

int main(void) {
    int log = new_file();
    if (write(log, "begin\n", 6) != 6) return 1;
    close(log);
    int table = new_file();
    if (write(table, "row 1\n", 6) != 6) return 1;
    if (write(log, "a line\n", 7) != 7) return 1; /* culprit */
    return close(table);
}
