/* Parent and child talk over one connection in turns. No call fails. */
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return 1;
    int child = fork();
    for (int i = 0; i < 8; i++) {
        if (child == 0) usleep(15000);
        if (write(ends[0], "x", 1) != 1) return 1; /* culprit */
        usleep(child == 0 ? 15000 : 30000);
    }
    if (child == 0) _exit(0);
    return waitpid(child, NULL, 0) != child;
}
