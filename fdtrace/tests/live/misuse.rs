//! Bad use gets a clear sentence and the right status.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use super::harness::{FDTRACE, Scratch, plain, trace};

fn refused(arguments: &[&str], status: i32, parts: &[&str]) {
    let report = plain(arguments);
    assert_eq!(report.status, Some(status), "{arguments:?}: {}", report.stderr);
    for part in parts {
        assert!(report.stderr.contains(part), "{arguments:?}: `{part}` in {}", report.stderr);
    }
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn each_with_its_sentence() {
    refused(&["-p", "4194303"], 2, &["no process 4194303"]);
    refused(&["-n", "no-such-program"], 2, &["no-such-program", "--wait"]);
    refused(&["--", "/nonexistent/command"], 127, &["/nonexistent/command"]);
    refused(&["--", "no-such-command-anywhere"], 127, &["no-such-command-anywhere", "PATH"]);
    refused(&["--", "/etc"], 126, &["/etc"]);
    refused(&[], 2, &["nothing to trace", "--help"]);
    refused(&["--json", "/nonexistent/out.json", "--", "true"], 2, &["/nonexistent/out.json"]);
    refused(&["--no-such-option"], 2, &["--no-such-option"]);
    refused(&["explain", "use-after-clos"], 2, &["use-after-close"]);
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn without_the_right_to_load() {
    let scratch = Scratch::new();
    // The build directory may be closed to others.
    let copy = scratch.path("fdtrace");
    std::fs::copy(FDTRACE, &copy).expect("a copy");
    let output = Command::new(&copy)
        .args(["-p", &std::process::id().to_string()])
        .uid(65534)
        .gid(65534)
        .output()
        .expect("fdtrace runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("sudo"), "{stderr}");
}

/// A kernel without type information, made by a mount that hides it from fdtrace alone.
#[test]
#[ignore = "needs root and a kernel with BTF"]
fn without_type_information() {
    let hidden = |arguments: &[&str]| {
        let script = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", FDTRACE])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("unshare (util-linux) runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let scratch = Scratch::new();
    let (ran, pid) = (scratch.path("ran"), std::process::id().to_string());
    for arguments in [&["--", "touch", &ran.to_string_lossy()][..], &["-p", &pid]] {
        let (status, _, stderr) = hidden(arguments);
        assert_eq!(status, Some(3), "{stderr}");
        for part in ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF", "fdtrace doctor"] {
            assert!(stderr.contains(part), "`{part}` in {stderr}");
        }
    }
    assert!(!ran.exists(), "what cannot be traced is not run");
    let (status, stdout, stderr) = hidden(&["doctor"]);
    assert_eq!(status, Some(3), "{stderr}");
    let missing = stdout.lines().find(|line| line.starts_with("fail") && line.contains("type information"));
    assert!(missing.is_some_and(|line| line.contains("/sys/kernel/btf/vmlinux")), "{stdout}");
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn an_output_file_is_not_replaced_unasked_and_no_link_is_followed() {
    let scratch = Scratch::new();
    let there = scratch.write("there.json", "precious");
    let link = scratch.path("link.json");
    std::os::unix::fs::symlink(&there, &link).expect("a link");
    for path in [&there, &link] {
        refused(&["--json", &path.to_string_lossy(), "--", "true"], 2, &[&path.to_string_lossy()]);
    }
    assert_eq!(std::fs::read_to_string(&there).expect("the file"), "precious");
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_command_keeps_its_status_and_is_given_nothing_of_ours() {
    assert_eq!(trace(&[], &["sh", "-c", "exit 7"]).status, Some(7));
    // By the same signal, so a shell sees no status of ours.
    let report = trace(&[], &["sh", "-c", "kill -TERM $$"]);
    assert_eq!(report.status, None, "{}", report.stderr);
    let list = |command: &mut Command| {
        let output = command.args(["sh", "-c", "ls -l /proc/self/fd | sed 's/.*[0-9] \\([0-9]* ->\\)/\\1/'"]);
        let output = output.stdin(Stdio::null()).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // What ls opens itself has another number of process each time.
        text.lines()
            .filter(|line| line.contains("->") && !line.contains("/proc/"))
            .map(|line| line.split(" -> ").next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let without = list(&mut Command::new("env"));
    let with = list(Command::new(FDTRACE).arg("--"));
    assert_eq!(with, without);
}
