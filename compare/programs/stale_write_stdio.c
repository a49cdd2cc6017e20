/* The same with an owner: somebody closes the number of a FILE behind its back, and what the FILE flushes at the end
 * goes into the file that has the number by then. No call fails. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
    FILE *log = fopen("/dev/null", "w");
    if (!log || fprintf(log, "begin\n") < 0 || fflush(log)) return 1;
    close(fileno(log)); /* culprit */
    int table = open("/dev/null", O_RDWR);
    if (write(table, "row 1\n", 6) != 6) return 1;
    fprintf(log, "a line\n");
    return fclose(log);
}
