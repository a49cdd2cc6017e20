//! Processes in pid namespaces, and numbers that come again.

use serde_json::Value;

use super::harness::{Scratch, compile, record};

/// In a new pid namespace two processes, one after the other, have the number 77. The first leaves a number open and
/// ends; the second uses it after its own close. Says the second one's number outside.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void next_pid(const char *number) {
    int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
    write(fd, number, strlen(number));
    close(fd);
}

int main(void) {
    char byte;
    unshare(CLONE_NEWPID);
    if (fork() == 0) {
        for (int round = 0; round < 2; round++) {
            next_pid("76");
            if (fork() == 0) {
                if (getpid() != 77) _exit(3);
                int fd = open("/dev/zero", O_RDONLY);
                if (round == 0) _exit(0);
                close(fd);
                prctl(PR_SET_NAME, "worker: \x1b[31m", 0, 0, 0);
                read(fd, &byte, 1);
                _exit(0);
            }
            int status;
            wait(&status);
            if (WEXITSTATUS(status)) _exit(WEXITSTATUS(status));
        }
        _exit(0);
    }
    int status;
    wait(&status);
    return WEXITSTATUS(status);
}
"#;

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn both_numbers_are_told_and_one_that_comes_again_is_another() {
    if !std::path::Path::new("/proc/sys/kernel/ns_last_pid").exists() {
        eprintln!("left out: this kernel has no ns_last_pid (CONFIG_CHECKPOINT_RESTORE)");
        return;
    }
    let scratch = Scratch::new();
    let (source, program) = (scratch.write("ns.c", PROGRAM), scratch.path("ns"));
    assert!(compile(&["-g", "-w"], &source, &program), "a C compiler");
    let (report, lines) = record(&scratch, &[program.as_os_str()]);
    assert_eq!(report.status, Some(0), "{}", report.stderr);
    let found: Vec<&Value> = lines.iter().filter(|line| line["type"] == "finding").collect();
    let [finding] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((finding["rule"].as_str(), finding["confidence"].as_str()), (Some("use-after-close"), Some("proven")));
    assert_eq!(finding["pid_inside"], 77);
    let pid = finding["pid"].as_u64().expect("a pid");
    assert_ne!(pid, 77);
    // One life of the slot, the second process's own: the first one's is another table's.
    assert_eq!(finding["generation"], 1, "{finding:#}");
    assert!(report.stdout.contains(&format!("(pid {pid}, 77 in its namespace)")), "{}", report.stdout);
    assert!(!report.stdout.contains('\x1b'), "{}", report.stdout);
}
