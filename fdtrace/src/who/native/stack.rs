//! One readable stack out of native frames and Python frames.
//!
//! An interpreter runs Python code in `_PyEval_EvalFrameDefault`; the Python frames take the place of its frames and of
//! the functions that only lead into it. Where the two walks do not agree on how they interleave, the order within each
//! is kept and nothing is invented.

use super::unwind::End;

/// A native frame, named as far as possible. All strings are hostile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NativeFrame {
    /// Behind the call, or behind the system call instruction.
    pub address: u64,
    /// Path of the mapped file, as its process sees it; `[vdso]`; `None` for memory without a file.
    pub module: Option<String>,
    /// Hexadecimal.
    pub build_id: Option<String>,
    /// `address` in the module's own terms, as `addr2line` and debuggers take it.
    pub offset: Option<u64>,
    pub symbol: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    /// Compiled into the next frame, whose address it has.
    pub inlined: bool,
    /// Found without an unwind table: a frame below it may be missing.
    pub by_frame_pointer: bool,
}

/// A frame of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged<P> {
    Native(NativeFrame),
    Python(P),
    /// Native frames that are not known lie here.
    Gap,
}

/// Whether a Python frame is the outermost that its evaluation loop runs, that is, whether native code called it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Up to 3.10 every frame; in 3.11 `is_entry`; later, the next frame is a shim.
    Yes,
    No,
    /// The walk does not say.
    Unknown,
}

/// Merges the native and the Python stack of one moment, both innermost first.
pub fn merge<P>(native: Vec<NativeFrame>, end: End, python: Vec<P>, entry: impl Fn(&P) -> Entry) -> Vec<Merged<P>> {
    let native = without_call_stub(native);
    let loops = native.iter().filter(|frame| is_evaluation(frame)).count();
    if python.is_empty() || loops == 0 {
        return without_match(native, end, python);
    }
    let Some(groups) = groups(python.iter().map(entry), loops, end) else {
        return to_innermost_loop(native, python);
    };
    let interpreter = native.iter().find(|frame| is_evaluation(frame)).and_then(|frame| frame.module.clone());
    let mut merged = Vec::new();
    let mut python = python.into_iter();
    let mut groups = groups.into_iter();
    let mut behind_loop = false;
    for frame in native {
        if is_evaluation(&frame) {
            // What the loop calls functions with, and what was compiled into it, is the interpreter's own business.
            let own = |last: &Merged<P>| matches!(last, Merged::Native(last) if is_glue(last) || last.inlined && last.address == frame.address);
            while merged.last().is_some_and(own) {
                merged.pop();
            }
            merged.extend(python.by_ref().take(groups.next().unwrap_or(0)).map(Merged::Python));
            behind_loop = true;
        } else if behind_loop && (is_glue(&frame) || python.len() == 0 && is_start(&frame, interpreter.as_deref())) {
            // So is what leads into the loop, and what starts the interpreter.
        } else {
            behind_loop = false;
            merged.push(Merged::Native(frame));
        }
    }
    if python.len() > 0 {
        merged.push(Merged::Gap);
    }
    merged.extend(python.map(Merged::Python));
    merged
}

/// How many Python frames belong to each evaluation loop, innermost first. `None`: the two stacks do not agree.
fn groups(entries: impl Iterator<Item = Entry>, loops: usize, end: End) -> Option<Vec<usize>> {
    let mut groups = vec![0];
    let mut known = true;
    let mut frames = 0;
    for entry in entries {
        frames += 1;
        known &= entry != Entry::Unknown;
        if let Some(last) = groups.last_mut() {
            *last += 1;
        }
        if entry == Entry::Yes {
            groups.push(0);
        }
    }
    if groups.last() == Some(&0) {
        groups.pop();
    }
    let complete = end == End::Complete;
    if known && (groups.len() == loops || !complete && groups.len() > loops) {
        return Some(groups);
    }
    // One loop runs them all; or each runs one.
    match (known, loops, frames == loops) {
        (false, 1, _) if complete => Some(vec![frames]),
        (false, _, true) if complete => Some(vec![1; loops]),
        _ => None,
    }
}

/// Native frames down to the innermost evaluation loop, then all of Python.
fn to_innermost_loop<P>(native: Vec<NativeFrame>, python: Vec<P>) -> Vec<Merged<P>> {
    let native = native.into_iter().take_while(|frame| !is_evaluation(frame)).map(Merged::Native);
    native.chain(python.into_iter().map(Merged::Python)).collect()
}

/// One of the two is missing, or no loop was reached.
fn without_match<P>(native: Vec<NativeFrame>, end: End, python: Vec<P>) -> Vec<Merged<P>> {
    // A complete native stack without a loop: the interpreter is not recognised. Its frames say little, but they are
    // true.
    let gap = end != End::Complete && !python.is_empty() && !native.is_empty();
    let native = native.into_iter().map(Merged::Native);
    native.chain(gap.then_some(Merged::Gap)).chain(python.into_iter().map(Merged::Python)).collect()
}

/// Leaves one of several frames of the C library that only make the system call.
pub fn without_call_stub(mut native: Vec<NativeFrame>) -> Vec<NativeFrame> {
    const STUBS: &[&str] = &[
        "__syscall_cancel_arch",
        "__syscall_cancel_arch_end",
        "__internal_syscall_cancel",
        "__syscall_cancel",
        "__syscall_cp",
        "__syscall_cp_c",
        "__syscall_cp_asm",
    ];
    let hidden = native
        .windows(2)
        .take_while(|pair| {
            let (frame, caller) = (&pair[0], &pair[1]);
            let stub = match &frame.symbol {
                Some(name) => STUBS.contains(&base(name)),
                // In a stripped library they have no names.
                None => frame.module.as_deref().is_some_and(is_libc),
            };
            stub && frame.module == caller.module
        })
        .count();
    native.drain(..hidden);
    native
}

/// A name without what the compiler appended: `.cold`, `.lto_priv.0`.
pub fn base(name: &str) -> &str {
    name.split_once('.').map_or(name, |(base, _)| base)
}

fn is_evaluation(frame: &NativeFrame) -> bool {
    frame.symbol.as_deref().is_some_and(|name| base(name) == "_PyEval_EvalFrameDefault") && !frame.inlined
}

/// Functions of the interpreter that only pass a call on, into an evaluation loop or out of one.
fn is_glue(frame: &NativeFrame) -> bool {
    const GLUE: &[&str] = &[
        "PyCFunction_Call",
        "PyEval_EvalCode",
        "PyEval_EvalCodeEx",
        "PyEval_EvalFrame",
        "PyEval_EvalFrameEx",
        "PyObject_Vectorcall",
        "_PyEval_EvalCode",
        "_PyEval_EvalCodeWithName",
        "_PyEval_EvalFrame",
        "_PyEval_Vector",
        "_PyFunction_FastCallDict",
        "_PyFunction_Vectorcall",
        "_PyObject_MakeTpCall",
        "_PyObject_Vectorcall",
        "_PyObject_VectorcallTstate",
        "call_function",
        "do_call_core",
        "function_code_fastcall",
        "run_eval_code_obj",
        "run_mod",
    ];
    const FAMILIES: &[&str] =
        &["_PyMethodDef_RawFastCall", "cfunction_call", "cfunction_vectorcall", "method_vectorcall"];
    frame
        .symbol
        .as_deref()
        .map(base)
        .is_some_and(|name| GLUE.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family)))
}

/// Functions outside the outermost Python frame that start a program or a thread.
fn is_start(frame: &NativeFrame, interpreter: Option<&str>) -> bool {
    const START: &[&str] = &[
        "main",
        "_start",
        "start_thread",
        "clone3",
        "clone",
        "__clone3",
        "__clone",
        "__libc_start_main",
        "__libc_start_call_main",
    ];
    let named = frame.symbol.as_deref().is_some_and(|name| START.contains(&base(name)));
    named || frame.module.as_deref().is_some_and(|module| is_libc(module) || interpreter == Some(module))
}

pub fn is_libc(module: &str) -> bool {
    let name = module.rsplit('/').next().unwrap_or(module);
    ["libc.so", "libc-2.", "libpthread", "ld-musl", "ld-linux"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(names: &str) -> Vec<NativeFrame> {
        let frame = |name: &str| {
            let (name, module) = name.split_once('@').unwrap_or((name, "/usr/bin/python3"));
            let module = if module == "libc" { "/lib/libc.so.6" } else { module };
            let symbol = (name != "?").then(|| name.replace("eval", "_PyEval_EvalFrameDefault"));
            NativeFrame { symbol, module: Some(module.to_owned()), ..NativeFrame::default() }
        };
        names.split_whitespace().map(frame).collect()
    }

    /// Python frames are letters; a capital is an entry frame, `x` and `y` are not known.
    fn merged(names: &str, end: End, python: &str) -> String {
        let entry = |frame: &char| match frame {
            'x' | 'y' => Entry::Unknown,
            frame if frame.is_uppercase() => Entry::Yes,
            _ => Entry::No,
        };
        let text = |frame| match frame {
            Merged::Native(frame) => NativeFrame::symbol_or_unknown(&frame),
            Merged::Python(frame) => format!("<{frame}>"),
            Merged::Gap => "...".to_owned(),
        };
        merge(native(names), end, python.chars().collect(), entry).into_iter().map(text).collect::<Vec<_>>().join(" ")
    }

    impl NativeFrame {
        fn symbol_or_unknown(frame: &Self) -> String {
            frame.symbol.clone().unwrap_or_else(|| "?".to_owned())
        }
    }

    const START: &str =
        "PyEval_EvalCode run_mod pyrun_file Py_RunMain main __libc_start_call_main@libc __libc_start_main@libc _start";

    #[test]
    fn one_loop() {
        let stack = format!(
            "close@libc os_close cfunction_vectorcall_FASTCALL PyObject_Vectorcall eval.cold _PyEval_Vector {START}"
        );
        assert_eq!(merged(&stack, End::Complete, "abC"), "close os_close <a> <b> <C>");
    }

    #[test]
    fn two_loops_with_native_code_between() {
        let stack =
            format!("close@libc os_close eval _PyEval_Vector slot_tp_call PyObject_Call partial_call eval {START}");
        assert_eq!(
            merged(&stack, End::Complete, "aBcD"),
            "close os_close <a> <B> slot_tp_call PyObject_Call partial_call <c> <D>"
        );
    }

    #[test]
    fn disagreement_falls_back() {
        let stack = format!("close@libc os_close eval slot_tp_call eval {START}");
        assert_eq!(merged(&stack, End::Complete, "abcD"), "close os_close <a> <b> <c> <D>");
        assert_eq!(merged(&stack, End::Complete, "xyx"), "close os_close <x> <y> <x>");
        assert_eq!(merged(&stack, End::Complete, "xy"), "close os_close <x> slot_tp_call <y>");
    }

    #[test]
    fn truncated() {
        let stack = "close@libc os_close eval slot_tp_call";
        assert_eq!(merged(stack, End::Truncated, "aBcD"), "close os_close <a> <B> slot_tp_call ... <c> <D>");
        assert_eq!(merged("close@libc os_close", End::Truncated, "aB"), "close os_close ... <a> <B>");
        assert_eq!(merged("close@libc os_close", End::Complete, ""), "close os_close");
    }

    #[test]
    fn embedded_interpreter_keeps_its_host() {
        let stack = "close@libc os_close eval PyEval_EvalCode PyRun_String run_script@/opt/host main@/opt/host __libc_start_main@libc _start@/opt/host";
        assert_eq!(merged(stack, End::Complete, "A"), "close os_close <A> run_script main __libc_start_main _start");
    }

    #[test]
    fn stubs_of_the_c_library() {
        assert_eq!(
            merged(
                "__syscall_cancel_arch@libc __internal_syscall_cancel@libc __syscall_cancel@libc close@libc f",
                End::Complete,
                ""
            ),
            "close f"
        );
        assert_eq!(merged("?@libc ?@libc close@libc f", End::Complete, ""), "close f");
        assert_eq!(
            merged("close@libc _IO_file_close_it@libc fclose@libc f", End::Complete, ""),
            "close _IO_file_close_it fclose f"
        );
        assert_eq!(merged("?@libc f@/opt/host", End::Complete, ""), "? f");
    }
}
