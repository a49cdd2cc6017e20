//! The names a process goes by: what a user may reasonably type to mean it.
//!
//! `python3` says nothing about a service, so for interpreters the script or module counts too. Matching is exact; this
//! module lists names and guesses nothing. Command lines are the process's own to write: any of this may be a lie, and
//! none of it is needed to be true, because the user chooses from a list of what was found.

/// Where a name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The kernel's name of the main thread, at most 15 bytes.
    Comm,
    /// The file that runs.
    Executable,
    /// The first argument, or the title that a program wrote over it.
    Title,
    /// What an interpreter runs.
    Script,
    /// `python -m`, or a Java class.
    Module,
}

/// All names of a process, those that say most last.
pub fn names<'a>(comm: &'a [u8], exe: Option<&'a [u8]>, argv: &'a [Vec<u8>]) -> Vec<(By, &'a [u8])> {
    let mut names = vec![(By::Comm, comm)];
    // The kernel marks a file that was unlinked, but a file may also be called that.
    let exes = [exe, exe.and_then(|exe| exe.strip_suffix(b" (deleted)"))];
    for exe in exes.into_iter().flatten() {
        names.extend([(By::Executable, exe), (By::Executable, basename(exe))]);
    }
    if let Some((argv0, args)) = argv.split_first() {
        // Login shells carry a dash.
        let bare = argv0.strip_prefix(b"-").unwrap_or(argv0);
        names.extend([(By::Title, argv0.as_slice()), (By::Title, basename(argv0)), (By::Title, bare)]);
        names.extend(title(argv0).map(|name| (By::Title, name)));
        let interpreter = [exe.map(basename), Some(basename(argv0))].into_iter().flatten().find_map(Interpreter::of);
        if let Some(interpreter) = interpreter {
            names.extend(interpreter.program(args).into_iter().flat_map(|program| program.names(interpreter)));
        }
    }
    names.retain(|(_, name)| !name.is_empty());
    names
}

/// What programs write over their command line begins with their name: `gunicorn: master [app]`, `[celeryd: …]`.
///
/// A path is left alone: it may contain spaces, and the executable answers for it.
fn title(argv0: &[u8]) -> Option<&[u8]> {
    let text = argv0.strip_prefix(b"[").unwrap_or(argv0);
    let end = text.iter().position(|byte| matches!(byte, b' ' | b':'))?;
    let name = &text[..end];
    (!name.contains(&b'/')).then_some(name)
}

fn basename(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// How an interpreter's command line is read, up to the program it runs.
struct Interpreter {
    is: fn(&[u8]) -> bool,
    /// Short options can share one dash (`-um`). Java's cannot.
    clusters: bool,
    /// Short options with a value: the rest of the argument or, if there is none, the next one.
    valued: &'static [u8],
    /// Short options whose value, if any, is the rest of the argument.
    attached: &'static [u8],
    /// Long options whose value is the next argument.
    long_valued: &'static [&'static str],
    /// Options after which there is no script: the code is in the command line, or comes from standard input.
    code: &'static [u8],
    long_code: &'static [&'static str],
    module: Option<u8>,
    /// Endings that people leave out.
    endings: &'static [&'static str],
}

const INTERPRETERS: [Interpreter; 6] = [
    Interpreter {
        is: is_python,
        clusters: true,
        valued: b"WXQ",
        attached: b"",
        long_valued: &["--check-hash-based-pycs"],
        code: b"c",
        long_code: &[],
        module: Some(b'm'),
        endings: &[".py", ".pyc", ".pyw", ".pyz"],
    },
    Interpreter {
        is: |name| matches!(name, b"node" | b"nodejs"),
        clusters: true,
        valued: b"rC",
        attached: b"",
        long_valued: &["--require", "--import", "--loader", "--experimental-loader", "--conditions"],
        code: b"ep",
        long_code: &["--eval", "--print"],
        module: None,
        endings: &[".js", ".mjs", ".cjs", ".ts"],
    },
    Interpreter {
        is: |name| is_versioned(name, b"ruby"),
        clusters: true,
        valued: b"IrCE",
        attached: b"WTKxF0i",
        long_valued: &[],
        code: b"e",
        long_code: &[],
        module: None,
        endings: &[".rb"],
    },
    Interpreter {
        is: |name| is_versioned(name, b"perl"),
        clusters: true,
        valued: b"I",
        attached: b"MmilF0CDxV",
        long_valued: &[],
        code: b"eE",
        long_code: &[],
        module: None,
        endings: &[".pl"],
    },
    Interpreter {
        is: |name| matches!(name, b"sh" | b"bash" | b"dash" | b"zsh" | b"ksh"),
        clusters: true,
        valued: b"oO",
        attached: b"",
        long_valued: &["--rcfile", "--init-file"],
        code: b"cs",
        long_code: &[],
        module: None,
        endings: &[".sh", ".bash"],
    },
    Interpreter {
        is: |name| name == b"java",
        clusters: false,
        valued: b"",
        attached: b"",
        long_valued: &[
            "-cp",
            "-classpath",
            "--class-path",
            "-p",
            "--module-path",
            "--add-modules",
            "--add-opens",
            "--add-exports",
            "--add-reads",
        ],
        code: b"",
        long_code: &[],
        module: None,
        endings: &[".jar"],
    },
];

/// `python`, `python3`, `python3.13t`, `pypy3.10`.
fn is_python(name: &[u8]) -> bool {
    let name = match name {
        [name @ .., b'd' | b't' | b'm'] => name,
        name => name,
    };
    is_versioned(name, b"python") || is_versioned(name, b"pypy")
}

fn is_versioned(name: &[u8], stem: &[u8]) -> bool {
    name.strip_prefix(stem).is_some_and(|version| version.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'.')))
}

/// What an interpreter was told to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program<'a> {
    Script(&'a [u8]),
    Module(&'a [u8]),
    Class(&'a [u8]),
}

impl<'a> Program<'a> {
    fn names(self, interpreter: &Interpreter) -> Vec<(By, &'a [u8])> {
        let dot = |&byte: &u8| byte == b'.';
        match self {
            Self::Script(path) => {
                let base = basename(path);
                let stem =
                    interpreter.endings.iter().find_map(|ending| base.strip_suffix(ending.as_bytes())).unwrap_or(base);
                vec![(By::Script, path), (By::Script, base), (By::Script, stem)]
            }
            // `-m celery.bin` is known as all of `celery.bin`, `celery` and `bin`.
            Self::Module(name) => [Some(name), name.split(dot).next(), name.rsplit(dot).next()]
                .into_iter()
                .flatten()
                .map(|name| (By::Module, name))
                .collect(),
            Self::Class(name) => {
                [Some(name), name.rsplit(dot).next()].into_iter().flatten().map(|name| (By::Module, name)).collect()
            }
        }
    }
}

impl Interpreter {
    fn of(name: &[u8]) -> Option<&'static Self> {
        INTERPRETERS.iter().find(|interpreter| (interpreter.is)(name))
    }

    /// Reads the arguments (without the first) as the interpreter would.
    fn program<'a>(&self, args: &'a [Vec<u8>]) -> Option<Program<'a>> {
        let listed = |list: &[&str], arg: &[u8]| list.iter().any(|item| item.as_bytes() == arg);
        let mut args = args.iter().map(Vec::as_slice);
        while let Some(arg) = args.next() {
            match arg {
                b"--" => return args.next().map(Program::Script),
                // Standard input, or the padding of a rewritten command line.
                b"-" | b"" => return None,
                b"-jar" if !self.clusters => return args.next().map(Program::Script),
                _ if listed(self.long_valued, arg) => {
                    args.next();
                }
                _ if listed(self.long_code, arg) => return None,
                [b'-', b'-', ..] => {}
                [b'-', letters @ ..] if self.clusters => match self.cluster(letters) {
                    Cluster::Flags => {}
                    Cluster::Valued => {
                        args.next();
                    }
                    Cluster::Code => return None,
                    Cluster::Module([]) => return args.next().map(Program::Module),
                    Cluster::Module(name) => return Some(Program::Module(name)),
                },
                [b'-', ..] => {}
                _ if self.clusters => return Some(Program::Script(arg)),
                _ => return Some(Program::Class(arg)),
            }
        }
        None
    }

    fn cluster<'a>(&self, letters: &'a [u8]) -> Cluster<'a> {
        for (at, letter) in letters.iter().enumerate() {
            let rest = &letters[at + 1..];
            if self.code.contains(letter) {
                return Cluster::Code;
            }
            if self.module == Some(*letter) {
                return Cluster::Module(rest);
            }
            if self.valued.contains(letter) && rest.is_empty() {
                return Cluster::Valued;
            }
            if self.valued.contains(letter) || self.attached.contains(letter) {
                return Cluster::Flags;
            }
        }
        Cluster::Flags
    }
}

/// What one argument of short options asks for.
enum Cluster<'a> {
    Flags,
    /// The next argument belongs to it.
    Valued,
    Code,
    /// The name, empty if it is the next argument.
    Module(&'a [u8]),
}

#[cfg(test)]
mod tests;
