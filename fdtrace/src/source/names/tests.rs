use super::*;

fn argv(line: &str) -> Vec<Vec<u8>> {
    line.split('|').map(|arg| arg.as_bytes().to_vec()).collect()
}

fn found(exe: &str, line: &str) -> Vec<(By, String)> {
    names(b"the-comm", Some(exe.as_bytes()), &argv(line))
        .into_iter()
        .map(|(by, name)| (by, String::from_utf8_lossy(name).into_owned()))
        .collect()
}

fn program(exe: &str, line: &str) -> Vec<String> {
    let mut names: Vec<String> = found(exe, line)
        .into_iter()
        .filter(|(by, _)| matches!(by, By::Script | By::Module))
        .map(|(_, name)| name)
        .collect();
    names.dedup();
    names
}

#[test]
fn python_programs() {
    let none: [&str; 0] = [];
    let cases: &[(&str, &[&str])] = &[
        ("python3|worker.py|-v", &["worker.py", "worker"]),
        ("python3|/opt/app/worker.py", &["/opt/app/worker.py", "worker.py", "worker"]),
        ("/venv/bin/python|/venv/bin/gunicorn|app:app", &["/venv/bin/gunicorn", "gunicorn"]),
        ("python3|-m|celery.bin|worker", &["celery.bin", "celery", "bin"]),
        ("python3|-um|http.server", &["http.server", "http", "server"]),
        ("python3|-mhttp", &["http"]),
        ("python3|-uEs|-W|ignore|-X|dev|a.py", &["a.py", "a"]),
        ("python3|-Wignore|-Xdev|a.py", &["a.py", "a"]),
        ("python3|--check-hash-based-pycs|never|a.py", &["a.py", "a"]),
        ("python3|--|-m", &["-m"]),
        ("python3|-c|import worker|worker.py", &none),
        ("python3|-uc|pass|worker.py", &none),
        ("python3|-|worker.py", &none),
        ("python3", &none),
        ("python3|-m", &none),
        ("python3|-W", &none),
        ("python3|dir/", &["dir/", "dir"]),
    ];
    for (line, expected) in cases {
        assert_eq!(program("/usr/bin/python3.11", line), *expected, "{line}");
    }
}

#[test]
fn other_interpreters() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("/usr/bin/node", "node|--inspect|-r|ts-node|srv/app.js", &["srv/app.js", "app.js", "app"]),
        ("/usr/bin/node", "node|-e|code|x.js", &[]),
        ("/usr/bin/ruby3.1", "ruby|-W0|-I|lib|puma", &["puma"]),
        ("/usr/bin/perl", "perl|-MPOSIX|-w|job.pl", &["job.pl", "job"]),
        ("/usr/bin/perl", "perl|-ne|print|job.pl", &[]),
        ("/bin/bash", "bash|-e|-o|pipefail|run.sh", &["run.sh", "run"]),
        ("/bin/dash", "sh|-c|fdtrace -n worker.py", &[]),
        ("/jdk/bin/java", "java|-Xmx1g|-cp|a.jar:b.jar|org.app.Main|x", &["org.app.Main", "Main"]),
        ("/jdk/bin/java", "java|-jar|/srv/app.jar", &["/srv/app.jar", "app.jar", "app"]),
        ("/usr/bin/vim", "vim|worker.py", &[]),
        ("/usr/bin/sudo", "sudo|fdtrace|-n|worker.py", &[]),
        ("/usr/bin/pythonic", "pythonic|worker.py", &[]),
        ("/opt/python3.13t", "x|worker.py", &["worker.py", "worker"]),
        ("/opt/pypy3.10", "x|worker.py", &["worker.py", "worker"]),
    ];
    for (exe, line, expected) in cases {
        assert_eq!(program(exe, line), *expected, "{line}");
    }
}

#[test]
fn titles_and_files() {
    let has = |exe: &str, line: &str, by, name: &str| found(exe, line).contains(&(by, name.to_owned()));
    assert!(has("/usr/bin/python3", "gunicorn: master [app]|||", By::Title, "gunicorn"));
    assert!(has("/usr/bin/python3", "[celeryd: w1@host]", By::Title, "celeryd"));
    assert!(has("/bin/bash", "-bash", By::Title, "bash"));
    assert!(has("/opt/my app/run", "/opt/my app/run", By::Title, "run"));
    assert!(!has("/opt/my app/run", "/opt/my app/run", By::Title, "my"));
    assert!(has("/bin/x", "sshd: root|20", By::Title, "sshd"));
    assert!(!has("/bin/x", "my/dir app|c", By::Title, "my/dir"));
    assert!(has("/bin/x (deleted)", "y", By::Executable, "x"));
    assert!(has("/bin/x (deleted)", "y", By::Executable, "x (deleted)"));
    assert!(has("/bin/x", "y", By::Comm, "the-comm"));
    assert!(names(b"", None, &[]).is_empty());
    assert!(names(b"", Some(b"/"), &argv("|")).iter().all(|(_, name)| *name == b"/"));
}
