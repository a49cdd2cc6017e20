//! Numbers that have become something else, told by an error that only the kind explains.

use super::harness::{Scratch, compile, record};

/// A thread closes another's socket and opens a file in its place; the other goes on sending. `tidy`: it is told before.
const PROGRAM: &str = r#"
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int connection;

static void *take_away(void *tidy) {
    close(connection);
    int log = open("/dev/null", O_WRONLY);
    if (tidy) connection = -1;
    return (void *)(long)log;
}

int main(int argc, char **argv) {
    int pair[2], pipes[2];
    pthread_t thread;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pipe(pipes);
    connection = pair[0];
    /* Works on what never was a socket, as programs do that fall back to write. */
    if (argc > 2 && send(pipes[1], "x", 1, 0) < 0) write(pipes[1], "x", 1);
    pthread_create(&thread, 0, take_away, argc > 1 ? argv : 0);
    pthread_join(thread, 0);
    if (connection >= 0) send(connection, "secret", 6, 0);
    return 0;
}
"#;

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_socket_call_on_what_is_none_any_more() {
    let scratch = Scratch::new();
    let (source, program) = (scratch.write("kinds.c", PROGRAM), scratch.path("kinds"));
    assert!(compile(&["-g", "-w", "-pthread"], &source, &program), "a C compiler");
    let findings = |arguments: &[&str]| {
        let mut command = vec![program.as_os_str()];
        command.extend(arguments.iter().map(std::ffi::OsStr::new));
        let (report, lines) = record(&scratch, &command);
        assert_eq!(report.status, Some(0), "{}", report.stderr);
        let findings = lines.into_iter().filter(|line| line["type"] == "finding");
        findings.collect::<Vec<_>>()
    };
    let found = findings(&[]);
    let [finding] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((finding["rule"].as_str(), finding["confidence"].as_str()), (Some("stale-use"), Some("likely")));
    assert_eq!(finding["culprit"]["call"], "sendto");
    assert_eq!(finding["root_cause"]["call"], "close");
    assert!(findings(&["tidy"]).is_empty());
    assert!(findings(&["tidy", "and", "careless"]).is_empty());
}

/// A child makes a pipe of both non-blocking and ends; its parent reads. `before`: it was so before the fork, by a call
/// that sets nothing but that.
const FLAGS: &str = r#"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int pipes[2], one = 1;
    char byte;
    pipe(pipes);
    if (argc > 1) ioctl(pipes[0], FIONBIO, &one);
    if (fork() == 0) {
        fcntl(pipes[0], F_SETFL, O_NONBLOCK);
        _exit(0);
    }
    wait(0);
    usleep(1000000);
    read(pipes[0], &byte, 1);
    return 0;
}
"#;

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn flags_that_outlive_whoever_set_them() {
    let scratch = Scratch::new();
    let (source, program) = (scratch.write("flags.c", FLAGS), scratch.path("flags"));
    assert!(compile(&["-g", "-w"], &source, &program), "a C compiler");
    let findings = |arguments: &[&str]| {
        let mut command = vec![program.as_os_str()];
        command.extend(arguments.iter().map(std::ffi::OsStr::new));
        let (report, lines) = record(&scratch, &command);
        assert_eq!(report.status, Some(0), "{}", report.stderr);
        lines.into_iter().filter(|line| line["type"] == "finding").collect::<Vec<_>>()
    };
    let found = findings(&[]);
    let [finding] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((finding["rule"].as_str(), finding["confidence"].as_str()), (Some("shared-flags"), Some("proven")));
    assert_eq!(
        (finding["culprit"]["call"].as_str(), finding["victim"]["call"].as_str()),
        (Some("fcntl"), Some("read"))
    );
    assert!(findings(&["before"]).is_empty());
}
