/* A log whose number is kept in a static variable, and what may become of that. Arguments: what, milliseconds between the
 * steps. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define APART __attribute__((noinline))

static int log_fd = -1;
static long pause_ms;

static APART void step(void) {
    struct timespec time = { pause_ms / 1000, pause_ms % 1000 * 1000000 };
    if (pause_ms) nanosleep(&time, NULL);
}
#ifdef WRAPPED
/* As programs do that have had enough of checking. */
static APART int xopen(const char *path, int flags) {
    int fd = open(path, flags, 0600);
    if (fd < 0) { perror(path); exit(1); }
    return fd;
}
static APART void full_write(int fd, const char *text, size_t length) {
    while (length) {
        ssize_t written = write(fd, text, length);
        if (written < 0) { perror("write"); exit(1); }
        text += written;
        length -= (size_t)written;
    }
}
static APART void xclose(int fd, const char *name) { if (close(fd) < 0) perror(name); }
#else
#define xopen(path, flags) open(path, flags, 0600)
#define full_write(fd, text, length) do { if (write(fd, text, length) < 0) perror("write"); } while (0)
#define xclose(fd, name) do { if (close(fd) < 0) perror(name); } while (0)
#endif
static APART void log_open(void) { log_fd = xopen("log", O_CREAT | O_WRONLY | O_APPEND); }
static APART void log_line(const char *text) { full_write(log_fd, text, strlen(text)); }
static APART void log_close(void) { xclose(log_fd, "close log"); }
static APART void log_reset(void) { log_close(); log_fd = -1; }
static APART int db_open(void) { return xopen("db", O_CREAT | O_RDWR); }
static APART void db_put(int db, const char *text) { full_write(db, text, strlen(text)); }
static APART void db_close(int db) { xclose(db, "close db"); }
static void *idle(void *unused) { pause(); return unused; }

/* The log is closed, the database gets its number. */
static APART int rotated(void) {
    log_open(); log_line("start\n"); step();
    log_close(); step();
    int db = db_open(); db_put(db, "HEADER;"); step();
    return db;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    pthread_t thread;
    pause_ms = argc > 2 ? atol(argv[2]) : 0;
    if (!strcmp(what, "stale")) {
        rotated(); log_line("a line\n"); step(); log_close();
    } else if (!strcmp(what, "threads")) {
        pthread_create(&thread, NULL, idle, NULL);
        rotated(); log_line("a line\n"); step(); log_close();
    } else if (!strcmp(what, "child")) {
        log_open(); log_line("start\n"); step();
        if (!fork()) {
            for (int fd = 3; fd < 20; fd++) close(fd);
            int db = db_open(); db_put(db, "HEADER;"); step();
            log_line("a line\n"); step();
            _exit(0);
        }
        wait(NULL); log_line("end\n"); log_reset();
    } else if (!strcmp(what, "forgotten")) {        /* What nobody uses any more may keep what it likes. */
        int db = rotated(); db_put(db, "a record;"); step(); db_close(db);
    } else if (!strcmp(what, "again")) {
        log_open(); log_line("start\n"); step(); log_close(); step();
        log_open(); log_line("a line\n"); step(); log_close();
    } else if (!strcmp(what, "over")) {             /* Something else where the log was, on purpose. */
        log_open(); log_line("start\n"); step(); log_close(); step();
        int other = db_open(); dup2(other, log_fd); step();
        log_line("a line\n"); step(); log_close();
    } else if (!strcmp(what, "swapped")) {
        log_open(); log_line("start\n"); step();
        int other = db_open(); dup2(other, log_fd); db_close(other); step();
        log_line("a line\n"); step(); log_close();
    } else if (!strcmp(what, "reset")) {
        log_open(); log_line("start\n"); step(); log_reset(); step();
        int db = db_open(); db_put(db, "HEADER;"); step();
        if (log_fd >= 0) log_line("a line\n");
        db_close(db);
    } else if (!strcmp(what, "asked")) {            /* A library that knows that others may close everything. */
        struct stat before, now;
        log_open(); fstat(log_fd, &before); log_line("start\n"); step();
        for (int fd = 3; fd < 20; fd++) close(fd);
        int db = db_open(); db_put(db, "HEADER;"); step();
        if (fstat(log_fd, &now) || now.st_ino != before.st_ino || now.st_dev != before.st_dev) log_open();
        log_line("a line\n"); step(); log_close(); db_close(db);
    } else if (!strcmp(what, "forked")) {
        log_open(); log_line("start\n"); step();
        if (!fork()) { log_line("child\n"); step(); log_close(); _exit(0); }
        wait(NULL); log_line("a line\n"); step(); log_close();
    } else {
        return 2;
    }
    return 0;
}
