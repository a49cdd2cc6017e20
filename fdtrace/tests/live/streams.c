/* Streams, directories and bare numbers, and mistakes with them, at random. Prints what a tracer has to find, and who
 * closed what: the truth for live tests. Arguments: seed, steps, 0 or 1: make mistakes. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind { STREAM, DIRECTORY, NUMBER };
struct owner { enum kind kind; void *object; int fd; int used, unbuffered; };

static struct owner living[64], orphans[4096];
static int living_count, orphan_count;
static char *truth;
static size_t truth_size, truth_length;
static unsigned long long state;
static char folder[] = "/tmp/fdtrace-streams-XXXXXX", path[64];

static unsigned roll(unsigned below) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(state >> 33) % below;
}

/* Kept in memory: telling must not open or close anything. */
static void tell(const char *what, int fd, const void *object) {
    if (truth_size - truth_length < 80) truth = realloc(truth, truth_size += 1 << 20);
    truth_length += (size_t)snprintf(truth + truth_length, 80, "%s %d %p\n", what, fd, object);
}

static __attribute__((noinline)) void use(struct owner *owner) {
    char line[16];
    owner->used = 1;
    if (owner->kind == STREAM) {
        /* A buffer that is full hides the call. */
        if (fgetc(owner->object) == EOF) clearerr(owner->object);
        fflush(owner->object);
    } else if (owner->kind == DIRECTORY) {
        (void)readdir(owner->object);
    } else if (read(owner->fd, line, 1) < 0) {
        abort();
    }
}

static __attribute__((noinline)) struct owner make(void) {
    struct owner made = {0};
    unsigned what = roll(6);
    switch (what) {
    case 0: made.object = fopen("/dev/zero", "r"); break;
    case 1: made.object = fopen(path, "w+"); break;
    case 2: made.object = fopen(path, "a+"); break;
    case 3: made.object = fdopen(open("/dev/zero", O_RDONLY), "r"); break;
    case 4: made.kind = DIRECTORY; made.object = opendir(folder); break;
    default: made.kind = NUMBER; made.fd = open("/dev/zero", O_RDONLY); return made;
    }
    if (!made.object) abort();
    made.fd = made.kind == STREAM ? fileno(made.object) : dirfd(made.object);
    if (made.kind == STREAM && what < 3 && roll(2)) {
        setvbuf(made.object, NULL, _IONBF, 0);
        made.unbuffered = 1;
    }
    if (roll(2) || made.kind == DIRECTORY) use(&made);
    return made;
}

static int owner_of(int fd) {
    for (int i = 0; i < living_count; i++)
        if (living[i].fd == fd) return i;
    return -1;
}

static __attribute__((noinline)) void close_owner(struct owner *owner) {
    if (owner->kind == STREAM) fclose(owner->object);
    else if (owner->kind == DIRECTORY) closedir(owner->object);
    else close(owner->fd);
}

static __attribute__((noinline)) int deep(int n, void (*work)(struct owner *), struct owner *owner) {
    volatile char room[64];
    room[0] = (char)n;
    if (n) return deep(n - 1, work, owner) + room[0];
    work(owner);
    return 0;
}

static void add(struct owner owner) { living[living_count++] = owner; }
static struct owner take(int i) {
    struct owner taken = living[i];
    living[i] = living[--living_count];
    return taken;
}

int main(int count, char **arguments) {
    if (count < 4) return 2;
    state = strtoull(arguments[1], NULL, 0) * 2654435761u + 1;
    int steps = atoi(arguments[2]), mistakes = atoi(arguments[3]);
    if (!mkdtemp(folder)) return 1;
    snprintf(path, sizeof path, "%s/f", folder);
    for (int step = 0; step < steps; step++) {
        unsigned what = roll(100);
        if (what < 45 || !living_count) {
            if (living_count < 40) add(make());
        } else if (what < 60) {
            use(&living[roll((unsigned)living_count)]);
        } else if (what < 85) {
            struct owner taken = take((int)roll((unsigned)living_count));
            if (taken.kind != NUMBER) tell(taken.kind == STREAM ? "stream" : "directory", taken.fd, taken.object);
            deep((int)roll(5), close_owner, &taken);
        } else if (what < 88) {
            FILE *f = fopen("/dev/zero", "r");
            f = freopen("/dev/null", "r", f);
            tell("stream", fileno(f), f);
            fclose(f);
        } else if (mistakes && what < 94) {
            int i = (int)roll((unsigned)living_count);
            /* A stream that was made of a number and never used cannot be met before. */
            if (living[i].kind == NUMBER || !living[i].used) continue;
            struct owner taken = take(i);
            tell("foreign-close", taken.fd, taken.object);
            close(taken.fd);
            if (taken.kind == STREAM) orphans[orphan_count++] = taken;
            /* Something else in between: closes of neighbouring numbers in a row are a clean-up. */
            struct owner other = {NUMBER, NULL, open("/dev/zero", O_RDONLY), 0};
            add(other);
        } else if (mistakes && orphan_count) {
            int i = (int)roll((unsigned)orphan_count);
            struct owner orphan = orphans[i];
            int hit = owner_of(orphan.fd);
            if (hit >= 0 && roll(2) && living[hit].kind == NUMBER) {
                if (!orphan.unbuffered) continue;
                tell("stale-use", orphan.fd, orphan.object);
                FILE *f = orphan.object;
                if (fgetc(f) == EOF) clearerr(f);
                fflush(f);
                continue;
            }
            orphans[i] = orphans[--orphan_count];
            if (hit >= 0) {
                tell("stale-close", orphan.fd, orphan.object);
                struct owner robbed = take(hit);
                if (robbed.kind == STREAM && robbed.used) orphans[orphan_count++] = robbed;
            }
            fclose(orphan.object);
        }
    }
    (void)!write(1, truth, truth_length);
    remove(path);
    rmdir(folder);
    _exit(0);
}
