/* A descriptor is closed while registered and copied: its event comes all the same. No call fails. */
#include <sys/epoll.h>
#include <unistd.h>

int main(void) {
    int ends[2], epoll = epoll_create1(0);
    if (pipe(ends)) return 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = ends[0]};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event)) return 1;
    int copy = dup(ends[0]);
    close(ends[0]); /* culprit */
    if (write(ends[1], "x", 1) != 1) return 1;
    return epoll_wait(epoll, &event, 1, 0) != 1 || copy < 0;
}
