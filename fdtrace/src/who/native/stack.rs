//! Native frames, and which of them a reader wants to see beside Python's.

use std::rc::Rc;

/// A native frame, named as far as possible. All strings are hostile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NativeFrame {
    /// Behind the call, or behind the system call instruction.
    pub address: u64,
    /// Path of the mapped file, as its process sees it; `[vdso]`; `None` for memory without a file.
    pub module: Option<Rc<str>>,
    /// Hexadecimal.
    pub build_id: Option<Rc<str>>,
    /// `address` in the module's own terms, as `addr2line` and debuggers take it.
    pub offset: Option<u64>,
    pub symbol: Option<Rc<str>>,
    pub file: Option<Rc<str>>,
    pub line: Option<u32>,
    /// Compiled into the next frame, whose address it has.
    pub inlined: bool,
    /// Found without an unwind table: a frame below it may be missing.
    pub by_frame_pointer: bool,
}

/// The native frames below the innermost Python frame that belong neither to the interpreter nor to the C library: the
/// extension that made the call, and what it called. Innermost first; `about` gives a frame's function and module.
///
/// Only the part below is told, for how deeper parts interleave with Python's frames no table says. None if the stack
/// was not followed as far as the interpreter: then it is not known what lies below.
pub fn below_python<F>(native: &[F], about: impl Fn(&F) -> (&str, &str)) -> Vec<&F> {
    let kind = |frame: &F| {
        let (function, module) = about(frame);
        if is_evaluation(function) || is_interpreter(module) {
            Kind::Interpreter
        } else if is_libc(module) || is_own_extension(module) {
            Kind::Means
        } else {
            Kind::Other
        }
    };
    let Some(end) = native.iter().position(|frame| kind(frame) == Kind::Interpreter) else { return Vec::new() };
    native[..end].iter().filter(|frame| kind(frame) == Kind::Other).collect()
}

#[derive(PartialEq, Eq)]
enum Kind {
    Interpreter,
    /// By which Python makes calls.
    Means,
    Other,
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

fn is_evaluation(function: &str) -> bool {
    base(function) == "_PyEval_EvalFrameDefault"
}

/// `python3.11`, `libpython3.11.so.1.0`.
fn is_interpreter(module: &str) -> bool {
    let name = module.rsplit('/').next().unwrap_or(module);
    ["python3", "libpython3"].iter().any(|prefix| name.starts_with(prefix))
}

/// The parts of the standard library that are written in C: `lib-dynload/_socket.cpython-311-x86_64-linux-gnu.so`.
fn is_own_extension(module: &str) -> bool {
    module.contains("/lib-dynload/")
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
            let symbol = (name != "?").then(|| name.into());
            NativeFrame { symbol, module: Some(module.into()), ..NativeFrame::default() }
        };
        names.split_whitespace().map(frame).collect()
    }

    fn names(frames: &[NativeFrame]) -> String {
        frames.iter().map(|frame| frame.symbol.as_deref().unwrap_or("?")).collect::<Vec<_>>().join(" ")
    }

    fn below(stack: &str) -> String {
        let stack = native(stack);
        let about: fn(&NativeFrame) -> (&str, &str) =
            |frame| (frame.symbol.as_deref().unwrap_or(""), frame.module.as_deref().unwrap_or(""));
        let found: Vec<NativeFrame> = below_python(&stack, about).into_iter().cloned().collect();
        names(&found)
    }

    #[test]
    fn extensions_are_told_and_the_interpreter_is_not() {
        assert_eq!(below("close@libc os_close cfunction_vectorcall_FASTCALL _PyEval_EvalFrameDefault main"), "");
        assert_eq!(below("close@libc sock_close@/x/lib-dynload/_socket.so cfunction_call"), "");
        let driver =
            "close@libc PQfinish@/lib/libpq.so.5 conn_close@/x/psycopg/_c.so cfunction_call callback@/x/other.so";
        assert_eq!(below(driver), "PQfinish conn_close");
        // Embedded, and without a module of its own.
        assert_eq!(below("close@libc f@/x/ext.so _PyEval_EvalFrameDefault.cold@/opt/host main@/opt/host"), "f");
        // Not followed as far.
        assert_eq!(below("close@libc f@/opt/host g@/opt/host"), "");
    }

    #[test]
    fn stubs_of_the_c_library() {
        let left = |stack| names(&without_call_stub(native(stack)));
        let stubs = "__syscall_cancel_arch@libc __internal_syscall_cancel@libc __syscall_cancel@libc close@libc f";
        assert_eq!(left(stubs), "close f");
        assert_eq!(left("?@libc ?@libc close@libc f"), "close f");
        assert_eq!(left("close@libc _IO_file_close_it@libc fclose@libc f"), "close _IO_file_close_it fclose f");
        assert_eq!(left("?@libc f@/opt/host"), "? f");
    }
}
