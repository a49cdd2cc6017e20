//! Programs are compiled here, with and without optimization: what compilers write is what has to be understood.

use std::{collections::BTreeSet, fs::File, path::Path, process::Command};

use super::{names::Names, *};
use crate::who::native::elf::Source;

/// What is common to all programs.
const HEAD: &str = "#include <fcntl.h>\n#include <string.h>\n#include <unistd.h>\n#include <sys/socket.h>\n";

/// The variables that are understood, for each way to compile; `None`: there is no compiler.
fn understood(name: &str, body: &str) -> Option<Vec<Vec<String>>> {
    let folder = std::env::temp_dir().join(format!("fdtrace-variable-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("program.c");
    std::fs::write(&source, format!("{HEAD}{body}")).unwrap();
    let ways: [&[&str]; 5] = [&["-O0"], &["-O1"], &["-O2"], &["-O2", "-no-pie"], &["-O1", "-fPIC", "-shared"]];
    let compiled = ways.iter().map(|way| {
        let program = folder.join(format!("program{}", way.concat()));
        let status = Command::new("cc").args(*way).args(["-w", "-o"]).args([&program, &source]).status();
        status.ok()?.success().then(|| names(&program))
    });
    let found = compiled.collect();
    std::fs::remove_dir_all(&folder).unwrap();
    found
}

/// Variables that numbers are kept in and taken from, by whatever calls there are.
fn names(program: &Path) -> Vec<String> {
    let source = Source::file(File::open(program).unwrap()).unwrap();
    let object = Object::new(source, Vec::new(), 1).unwrap();
    let mut keeper = Keeper::load(&object).unwrap();
    let mut names = BTreeSet::new();
    for symbol in Names::load(&object, b".symtab").unwrap().functions().map(|(start, _)| start).collect::<Vec<_>>() {
        let Ok(known) = keeper.flow(&object, symbol) else { continue };
        let variables = known.1.stores.iter().filter(|(_, value)| matches!(value, Value::Result(_)));
        for variable in variables.map(|(range, _)| range.start) {
            names.extend(keeper.name(&object, variable).map(|name| name.to_string()));
        }
    }
    names.into_iter().collect()
}

/// The variables that are understood must be these, however it is compiled.
#[track_caller]
fn assert_understood(name: &str, body: &str, expected: &[&str]) {
    let Some(found) = understood(name, body) else { return };
    for found in found {
        assert_eq!(found, expected, "of {body}");
    }
}

/// Makes what is behind it a function that is not compiled into its caller, and that others may call.
const MAIN: &str = "int main(void) { begin(); line(\"a\"); end(); return 0; }\n";

#[test]
fn a_variable_that_calls_alone_write_to() {
    let program = "static int log_fd = -1;\n\
        __attribute__((noinline)) void begin(void) { log_fd = open(\"log\", O_WRONLY | O_CREAT, 0600); }\n\
        __attribute__((noinline)) void line(const char *text) { if (log_fd >= 0) write(log_fd, text, strlen(text)); }\n\
        __attribute__((noinline)) int end(void) { int result = close(log_fd); log_fd = -1; return result + 1; }\n";
    assert_understood("plain", &format!("{program}{MAIN}"), &["log_fd"]);
}

#[test]
fn a_number_in_a_structure_that_nobody_has_the_address_of() {
    let program = "static struct { int lines; int fd; } log;\n\
        __attribute__((noinline)) void begin(void) { log.fd = socket(AF_UNIX, SOCK_DGRAM, 0); log.lines = 0; }\n\
        __attribute__((noinline)) void line(const char *text) { log.lines++; send(log.fd, text, 1, 0); log.lines++; }\n\
        __attribute__((noinline)) int end(void) { return close(log.fd) + 1; }\n";
    assert_understood("structure", &format!("{program}{MAIN}"), &["log+4"]);
}

#[test]
fn what_may_be_written_to_otherwise_is_left_out() {
    let line = "__attribute__((noinline)) void line(const char *text) { write(log_fd, text, 1); log_fd2++; }\n\
        __attribute__((noinline)) int end(void) { return close(log_fd) + 1; }\n";
    let opened = "open(\"log\", O_WRONLY)";
    for (name, begin) in [
        ("copied", format!("void begin(void) {{ log_fd = {opened}; if (log_fd2 > 7) log_fd = log_fd2; }}")),
        ("function", format!("int get(void); void begin(void) {{ log_fd = {opened}; log_fd = get(); }}")),
        ("dup2", format!("void begin(void) {{ log_fd = {opened}; log_fd = dup2(log_fd, 9); }}")),
        ("address", format!("void fill(int *fd); void begin(void) {{ log_fd = {opened}; fill(&log_fd); }}")),
        ("pointer", format!("int *there = &log_fd; void begin(void) {{ log_fd = {opened}; there++; }}")),
        ("constant", format!("void begin(void) {{ log_fd = {opened}; if (log_fd2) log_fd = 5; }}")),
        ("compared", format!("int begin(void) {{ log_fd = {opened}; return {opened} == log_fd; }}")),
        ("either", format!("void begin(void) {{ log_fd = log_fd2 ? {opened} : log_fd2 + 3; }}")),
        ("both", format!("int begin(void) {{ return log_fd = log_fd2 = {opened}; }}")),
        ("whole", format!("void begin(void) {{ log_fd = {opened}; log_fd += 1; }}")),
    ] {
        let others = "__attribute__((noinline)) int get(void) { return 9; }\n\
            __attribute__((noinline)) void fill(int *fd) { *fd = 4; }\n";
        let head = "static int log_fd = -1, log_fd2;\n";
        let begin = begin.replace("void begin", "__attribute__((noinline)) void begin");
        let program = format!("{head}{begin}\n{line}{others}{MAIN}");
        let Some(found) = understood(name, &program) else { return };
        for found in found {
            assert!(!found.iter().any(|name| name == "log_fd"), "{name}: {program}");
        }
    }
}

#[test]
fn a_number_that_it_may_begin_with_is_left_out() {
    let program = "static int log_fd = 7;\n\
        __attribute__((noinline)) void begin(void) { log_fd = open(\"log\", O_WRONLY); }\n\
        __attribute__((noinline)) void line(const char *text) { write(log_fd, text, 1); }\n\
        __attribute__((noinline)) int end(void) { return close(log_fd) + 1; }\n";
    assert_understood("begins", &format!("{program}{MAIN}"), &[]);
}

#[test]
fn what_others_can_name_is_left_out() {
    let program = "int log_fd = -1;\n\
        __attribute__((noinline)) void begin(void) { log_fd = open(\"log\", O_WRONLY); }\n\
        __attribute__((noinline)) void line(const char *text) { write(log_fd, text, 1); }\n\
        __attribute__((noinline)) int end(void) { return close(log_fd) + 1; }\n";
    let Some(found) = understood("exported", &format!("{program}{MAIN}")) else { return };
    let [programs @ .., library] = found.as_slice() else { panic!() };
    assert!(programs.iter().all(|names| names == &["log_fd"]), "{programs:?}");
    assert_eq!(library, &[] as &[String], "a library's variable is everybody's");
}

/// What is stored to a variable by a function of a call, these bytes, and a store of the result's register.
fn stored(between: &[u8]) -> Value {
    const CALL: [u8; 5] = [0xe8, 0, 0, 0, 0];
    const STORE: [u8; 7] = [0x89, 0x05, 0, 0x10, 0, 0, 0xc3];
    let code = [&CALL[..], between, &STORE].concat();
    let data = 0x1000..0x4000;
    let piece = flow::Piece { start: 0x1000, code: &code, is_function: true, data: std::slice::from_ref(&data) };
    let flow = flow::follow(piece, &Default::default());
    let [(_, value)] = flow.stores.as_slice() else { panic!("{flow:?}") };
    *value
}

#[test]
fn a_part_of_a_register_that_is_cleared_is_not_the_whole() {
    assert_eq!(stored(&[]), Value::Result(0x1005));
    assert_eq!(stored(&[0x31, 0xc0]), Value::Constant(0), "xor %eax,%eax");
    assert_eq!(stored(&[0x30, 0xc0]), Value::Unknown, "xor %al,%al");
    assert_eq!(stored(&[0x66, 0x31, 0xc0]), Value::Unknown, "xor %ax,%ax");
}

/// Numbers that are the same in each run.
fn scatter(state: &mut u64) -> u8 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 56) as u8
}

#[test]
fn nonsense_is_gone_through_without_harm() {
    let mut state = 7;
    for round in 0..300 {
        // Half of it are jumps and moves about the stack, of which real code is made as well.
        let common = [0xe8, 0x74, 0xeb, 0x89, 0x8b, 0x45, 0x55, 0xc3, 0xff, 0x0f, 0x48, 0x05];
        let code: Vec<u8> = (0..1 << (round % 12))
            .map(|_| match scatter(&mut state) {
                byte @ 0..128 => common[usize::from(byte) % common.len()],
                byte => byte,
            })
            .collect();
        let start = if round % 2 == 0 { 0x1000 } else { u64::MAX - 64 };
        let data = start..start.saturating_add(1 << 20);
        let data = std::slice::from_ref(&data);
        let piece = flow::Piece { start, code: &code, is_function: round % 3 == 0, data };
        let entered = (0..8).map(|at| start.wrapping_add(at * 5)).collect();
        assert!(flow::follow(piece, &entered).steps < 1 << 24);
    }
}

#[test]
fn damaged_programs_do_no_harm() {
    let folder = std::env::temp_dir().join(format!("fdtrace-variable-damaged-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (source, program) = (folder.join("program.c"), folder.join("program"));
    let text = "static int log_fd = -1; void begin(void) { log_fd = open(\"log\", 1); }\n\
        int main(void) { begin(); write(log_fd, \"a\", 1); return close(log_fd); }\n";
    std::fs::write(&source, format!("{HEAD}{text}")).unwrap();
    let compiled = Command::new("cc").args(["-O1", "-w", "-o"]).args([&program, &source]).status();
    if !compiled.is_ok_and(|status| status.success()) {
        return;
    }
    let whole = std::fs::read(&program).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    for at in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let Ok(object) = Object::new(Source::Memory(bytes.into()), Vec::new(), 1) else { continue };
        let Ok(mut keeper) = Keeper::load(&object) else { continue };
        for address in (0x1000..0x1400).step_by(16) {
            let Ok(known) = keeper.flow(&object, address) else { continue };
            for (range, _) in &known.1.stores {
                keeper.name(&object, range.start);
            }
        }
    }
}
