/* Parent and child each ask and take an answer over one connection, and get each other's. No call fails. */
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int pause_between(int child) { return usleep(child == 0 ? 15000 : 30000); }

int main(void) {
    int ends[2];
    char byte;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return 1;
    int server = fork();
    if (server == 0) {
        close(ends[0]);
        while (read(ends[1], &byte, 1) == 1 && write(ends[1], &byte, 1) == 1) {}
        _exit(0);
    }
    close(ends[1]);
    int child = fork();
    for (int i = 0; i < 8; i++) {
        if (child == 0) usleep(15000);
        if (write(ends[0], "x", 1) != 1 || pause_between(child) || read(ends[0], &byte, 1) != 1) return 1; /* culprit */
    }
    if (child == 0) _exit(0);
    int status = waitpid(child, NULL, 0) != child;
    kill(server, SIGTERM);
    return status;
}
