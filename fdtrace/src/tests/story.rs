//! A language for tests of the model and the rules: one line for each thing that happens.
//!
//! ```text
//! 1 open /data/a -> 3        process 1 opens a file
//! 1 thread 7                 ... has another thread from now on
//! 1.7 close 3                thread 7 of process 1
//! 1 fork -> 2                process 2 is a copy of process 1
//! 2 read 3 = EBADF           a call that fails
//! 1.7 begin                  the next call of thread 7 begins here, and ends where it stands
//! 1 exec /bin/sh             numbers marked `cloexec` go
//! 1 exit
//! 1 lists 3 4 2 5            the kernel lists: epoll 3 has a registration of 4, whose file is process 2's 5
//! sleep 100                  milliseconds
//! ```
//!
//! The script keeps tables of its own, as the kernel would, so that each event carries the addresses of files that a
//! real one carries. `open` is told what to open by a word after the path: `rw`, `append`, `cloexec`. Any call may say where
//! it is made, `@7`, and in which static variable the number is kept: `$1`.

use std::{collections::BTreeMap, rc::Rc};

use fdtrace_common::wire::{EpollEntry, FileInfo, flag};

use crate::{
    detect::{Detector, Want, finding::Finding},
    event::{Call, Effect, EpollCtl, EpollOp, Event, Install, Interval, Moment, Path, Source, TableRow, What},
    model::{Change, World},
    syscalls::{self, Arch, Syscall, errno_name},
    who::sighting::{Sighting, Variable},
};

#[derive(Clone, Copy, Debug)]
struct Open {
    file: FileInfo,
    cloexec: bool,
}

/// Kinds that the kernel tells by their file operations, and made-up addresses of those.
const KINDS: [(u64, &str); 4] = [(0xe1, "eventpoll"), (0xe2, "inotify"), (0xe3, "timerfd"), (0xe4, "eventfd")];

type Numbers = BTreeMap<i32, Open>;

/// Runs a script, and keeps what came of it.
#[derive(Debug)]
pub struct Script {
    pub world: World,
    pub detector: Detector,
    pub changes: Vec<Change>,
    pub findings: Vec<Finding>,
    pub wants: Vec<Want>,
    tables: BTreeMap<u64, Numbers>,
    table_of: BTreeMap<u32, u64>,
    threads: BTreeMap<u32, Vec<u32>>,
    begun: BTreeMap<u32, Moment>,
    /// Where the next event is made.
    site: Option<u64>,
    /// The variable that its number is from, or goes to.
    variable: Option<Variable>,
    files: u64,
    now: Moment,
}

/// Runs a script with every rule.
pub fn run(script: &str) -> Script {
    let mut run = Script::new();
    for line in script.lines() {
        run.line(line);
    }
    run.finish();
    run
}

/// The findings of a script, one line each: rule, confidence, process and number.
pub fn findings(script: &str) -> Vec<String> {
    run(script).summary()
}

impl Script {
    pub fn new() -> Self {
        let mut script = Self {
            world: World::new(),
            detector: Detector::new(),
            changes: Vec::new(),
            findings: Vec::new(),
            wants: Vec::new(),
            tables: BTreeMap::new(),
            table_of: BTreeMap::new(),
            threads: BTreeMap::new(),
            begun: BTreeMap::new(),
            site: None,
            variable: None,
            files: 0,
            now: Moment { time: 1_000_000_000, pos: 1 },
        };
        script.process(1, 0x1000);
        for (fop, kind) in KINDS {
            let mut name = [0; 24];
            name[..kind.len()].copy_from_slice(kind.as_bytes());
            script.event(1, 1, None, What::FopKind { fop, name });
        }
        script
    }

    pub fn summary(&self) -> Vec<String> {
        let line = |f: &Finding| format!("{} {:?} {} {}", f.rule, f.confidence, f.pid, f.fd).to_lowercase();
        self.findings.iter().map(line).collect()
    }

    pub fn finish(&mut self) {
        self.detector.finish(&self.world, &mut self.findings);
    }

    fn process(&mut self, tgid: u32, table: u64) {
        self.tables.entry(table).or_default();
        self.table_of.insert(tgid, table);
        self.threads.insert(tgid, vec![tgid]);
    }

    /// Takes one line.
    ///
    /// # Panics
    /// If it cannot be understood.
    pub fn line(&mut self, line: &str) {
        let line = line.split('#').next().unwrap_or("").trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let [subject, verb, rest @ ..] = words.as_slice() else {
            if !words.is_empty() {
                panic!("what is `{line}`?");
            }
            return;
        };
        if *subject == "sleep" {
            self.now.time += 1_000_000 * number(verb);
            self.event(0, 0, None, What::Tick);
            return;
        }
        let (tgid, tid) = match subject.split_once('.') {
            Some((tgid, tid)) => (number(tgid) as u32, number(tid) as u32),
            None => (number(subject) as u32, number(subject) as u32),
        };
        assert!(self.table_of.contains_key(&tgid), "there is no process {tgid}: `{line}`");
        self.act(tgid, tid, verb, rest);
    }

    /// The moment of the next record.
    fn step(&mut self) -> Moment {
        let now = self.begin();
        self.now.pos += 10;
        now
    }

    /// A call begins: that takes time and no place in the ring.
    fn begin(&mut self) -> Moment {
        self.now.time += 1_000;
        self.now
    }

    fn event(&mut self, tgid: u32, tid: u32, enter: Option<Moment>, what: What) {
        let exit = self.step();
        let table = self.table_of.get(&tgid).copied().unwrap_or(0);
        let event = Event { at: Interval { enter, exit }, tgid, tid, table, what };
        let from = self.changes.len();
        let variable = self.variable.take();
        let seen = self.site.take().map(|site| Rc::new(Sighting { variable, ..Sighting::at(site) }));
        self.world.apply_seen(&event, seen, &mut self.changes);
        for change in &self.changes[from..] {
            self.detector.on(change, &self.world, &mut self.findings);
        }
        if matches!(event.what, What::Tick) {
            self.detector.tick(&self.world, &mut self.findings);
        }
        self.wants.extend(self.detector.take_wants());
    }

    fn act(&mut self, tgid: u32, tid: u32, verb: &str, rest: &[&str]) {
        match verb {
            "begin" => {
                let begun = self.begin();
                self.begun.insert(tid, begun);
                // Whatever comes next comes a while later: the thread waits.
                self.now.time += 10_000_000;
            }
            "thread" => {
                let child = number(rest[0]) as u32;
                self.threads.entry(tgid).or_default().push(child);
                let table = self.table_of[&tgid];
                let enter = Some(self.begin());
                self.event(
                    tgid,
                    tid,
                    enter,
                    What::Fork { tgid, tid: child, table, start: 0, comm: *b"test\0\0\0\0\0\0\0\0\0\0\0\0" },
                );
            }
            "fork" => {
                let child = number(rest.last().expect("a child")) as u32;
                let from = self.table_of[&tgid];
                let table = 0x1000 * u64::from(child);
                let enter = Some(self.begin());
                let comm = *b"test\0\0\0\0\0\0\0\0\0\0\0\0";
                self.event(tgid, tid, enter, What::Fork { tgid: child, tid: child, table, start: 0, comm });
                let copy = self.tables[&from].clone();
                self.process(child, table);
                self.tables.insert(table, copy);
                self.list(child);
            }
            "exec" => {
                let table = self.table_of[&tgid];
                self.tables.entry(table).or_default().retain(|_, open| !open.cloexec);
                let enter = Some(self.begin());
                let path: Rc<[u8]> = rest.first().copied().unwrap_or("/bin/true").as_bytes().into();
                let argv: Rc<[u8]> = rest.join("\0").as_bytes().into();
                self.event(
                    tgid,
                    tid,
                    enter,
                    What::Exec { old_tid: tid, path, argv, comm: *b"prog\0\0\0\0\0\0\0\0\0\0\0\0" },
                );
                self.list(tgid);
            }
            "exit" => {
                self.event(tgid, tid, None, What::Exit { code: 0, group_dead: true, table_users: 1 });
                self.table_of.remove(&tgid);
            }
            "lists" => {
                let [epoll, fd, holder, held] = rest else { panic!("`lists EPOLL NUMBER HOLDER NUMBER`") };
                let (epoll, fd, holder) = (number(epoll) as i32, number(fd) as i32, number(holder) as u32);
                let held = number(held) as i32;
                let FileInfo { inode, dev, .. } = self.tables[&self.table_of[&holder]][&held].file;
                for fd in [EpollEntry::BEGIN, fd, EpollEntry::END] {
                    let current = Some((holder, held) == (tgid, fd));
                    let (events, data) = (1, fd as u64);
                    let held = Some((holder, held));
                    self.event(
                        tgid,
                        tid,
                        None,
                        What::EpollEntry { epoll, fd, events, data, inode, dev, current, held },
                    );
                }
            }
            _ => self.call(tgid, tid, verb, rest),
        }
    }

    /// The listing that follows a fork or an exec.
    fn list(&mut self, tgid: u32) {
        let numbers = &self.tables[&self.table_of[&tgid]];
        let rows = numbers.iter().map(|(fd, open)| TableRow { fd: *fd, file: open.file.file, cloexec: open.cloexec });
        let rows = rows.collect();
        self.event(tgid, tgid, None, What::Table { rows, more: false, beyond_walk: false });
    }

    fn call(&mut self, tgid: u32, tid: u32, verb: &str, rest: &[&str]) {
        let sys = by_name(match verb {
            "open" => "openat",
            "setfl" | "lock" | "unlock" | "cloexec" | "nocloexec" => "fcntl",
            verb => verb,
        });
        let enter = Some(self.begun.remove(&tid).unwrap_or_else(|| self.begin()));
        let error = rest.iter().position(|word| *word == "=").map(|at| errno(rest[at + 1]));
        let result = rest.iter().position(|word| *word == "->");
        let told: Vec<i32> =
            result.map_or_else(Vec::new, |at| rest[at + 1..].iter().map(|w| number(w) as i32).collect());
        let words: Vec<&str> = rest.iter().take_while(|word| !matches!(**word, "=" | "->")).copied().collect();
        let first = words.first().and_then(|word| word.parse::<i64>().ok()).unwrap_or(-1);
        let second = words.get(1).and_then(|word| word.parse::<i64>().ok()).unwrap_or(0);
        let table = self.table_of[&tgid];
        let slot = |tables: &BTreeMap<u64, Numbers>, fd: i64| {
            i32::try_from(fd).ok().and_then(|fd| tables[&table].get(&fd).copied())
        };
        let here = slot(&self.tables, first);
        let mut args = [first.cast_unsigned(), second.cast_unsigned(), 0, 0, 0, 0];
        let mut ret = error.map_or(0, |errno| -i64::from(errno));
        let cloexec = words.contains(&"cloexec");
        let effect = match (verb, error) {
            ("close", error) if error != Some(9) => {
                let before = here.map_or(0, |open| open.file.file);
                self.tables.entry(table).or_default().remove(&(first as i32));
                Effect::Remove { fd: first as i32, before, after: 0 }
            }
            ("close_range", None) => {
                let range = first as i32..=second as i32;
                self.tables.entry(table).or_default().retain(|fd, _| !range.contains(fd));
                Effect::RemoveRange { first: first as u32, last: second as u32 }
            }
            ("open", None) => {
                let flags = match () {
                    () if words.contains(&"rw") => 2,
                    () if words.contains(&"append") => 0o2001,
                    () => 0,
                };
                let path = words[0];
                args[0] = u64::MAX;
                let inode = path.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte));
                let mode = if path == "/dev/null" { 0o020_666 } else { 0o100_644 };
                let mut install = self.install(table, told[0], mode, flags, inode, cloexec);
                install.path = Some(Path { bytes: path.as_bytes().into(), truncated: false });
                ret = i64::from(told[0]);
                Effect::Install(install)
            }
            ("socket" | "accept4" | "inotify_init1" | "epoll_create1" | "timerfd_create" | "eventfd2", None) => {
                let mode = if matches!(verb, "socket" | "accept4") { 0o140_777 } else { 0o000_600 };
                ret = i64::from(told[0]);
                let mut install = self.install(table, told[0], mode, 2, 0, cloexec);
                install.file.fop = match verb {
                    "epoll_create1" => 0xe1,
                    "inotify_init1" => 0xe2,
                    "timerfd_create" => 0xe3,
                    "eventfd2" => 0xe4,
                    _ => 0,
                };
                Effect::Install(install)
            }
            ("pipe2" | "socketpair", None) => {
                let mode = if verb == "pipe2" { 0o010_600 } else { 0o140_777 };
                let first = self.install(table, told[0], mode, 0, 0, cloexec);
                Effect::Pair(Box::new([first, self.install(table, told[1], mode, 1, 0, cloexec)]))
            }
            ("dup", None) => {
                ret = i64::from(told[0]);
                let open = here.expect("an open number");
                self.tables.entry(table).or_default().insert(told[0], Open { cloexec: false, ..open });
                Effect::Install(Install {
                    fd: told[0],
                    file: open.file,
                    cloexec: false,
                    source: Source::Duplicated(first as i32),
                    path: None,
                    looked: u64::MAX,
                })
            }
            ("dup2", None) if first == second => {
                ret = second;
                Effect::Itself { fd: second as i32 }
            }
            ("dup2", None) => {
                ret = second;
                let open = here.expect("an open number");
                let before = slot(&self.tables, second).map_or(0, |open| open.file.file);
                self.tables.entry(table).or_default().insert(second as i32, Open { cloexec: false, ..open });
                let source = Source::Duplicated(first as i32);
                let (fd, file) = (second as i32, open.file);
                let install = Install { fd, file, cloexec: false, source, path: None, looked: u64::MAX };
                Effect::Replace { install, before }
            }
            ("cloexec" | "nocloexec", None) => {
                let on = verb == "cloexec";
                if let Some(open) = self.tables.entry(table).or_default().get_mut(&(first as i32)) {
                    open.cloexec = on;
                }
                Effect::SetCloexec { fd: first as i32, on }
            }
            ("setfl", None) => {
                // The flags are the file's: every number that leads to it sees them.
                let file = here.expect("an open number").file;
                let files = self.tables.values_mut().flat_map(|numbers| numbers.values_mut());
                files.filter(|open| open.file.file == file.file).for_each(|open| open.file.flags = second as u32);
                Effect::SetFlags { fd: first as i32, flags: second as u32, before: Some(file.flags) }
            }
            ("lock" | "unlock", None) => Effect::Lock { fd: first as i32, unlock: verb == "unlock" },
            ("epoll_ctl", _) => {
                let op = match words[1] {
                    "ADD" => EpollOp::Add,
                    "DEL" => EpollOp::Del,
                    "MOD" => EpollOp::Mod,
                    other => panic!("no operation `{other}`"),
                };
                let target = number(words[2]) as i64;
                args[2] = target.cast_unsigned();
                let file = slot(&self.tables, target).map_or(0, |open| open.file.file);
                let data = words.get(3).map_or(target.cast_unsigned(), |data| number(data));
                Effect::EpollCtl(EpollCtl {
                    epoll: first as i32,
                    epoll_file: here.map_or_else(FileInfo::default, |open| open.file),
                    op,
                    fd: target as i32,
                    target: [file, file],
                    events: 1,
                    data,
                })
            }
            ("epoll_wait", None) => {
                let data: Vec<(u32, u64)> = told.iter().map(|data| (1, *data as u64)).collect();
                ret = data.len() as i64;
                let file = here.map_or(0, |open| open.file.file);
                Effect::EpollWait { epoll: first as i32, file, count: data.len() as u32, data }
            }
            (_, Some(9 | 23 | 24)) => Effect::None,
            (_, error) => {
                ret = error.map_or_else(|| second.max(0), |errno| -i64::from(errno));
                Effect::Used { fd: first as i32 }
            }
        };
        self.site = words.iter().find_map(|word| word.strip_prefix('@')).map(number);
        let keeps_result = result.is_some();
        let address = words.iter().find_map(|word| word.strip_prefix('$')).map(number);
        self.variable = address.map(|address| Variable { address, keeps_result, name: b"v"[..].into() });
        let call = Call { sys, args, ret, enter_table: Some(table), effect };
        self.event(tgid, tid, enter, What::Call(call));
    }

    fn install(&mut self, table: u64, fd: i32, mode: u32, flags: u32, inode: u64, cloexec: bool) -> Install {
        self.files += 1;
        let socket = mode & 0o170_000 == 0o140_000;
        let file = FileInfo {
            file: 0xf000 + self.files * 0x100,
            inode: if inode == 0 { self.files } else { inode },
            mode,
            flags,
            family: u16::from(socket),
            sock_type: u16::from(socket),
            rdev: if mode == 0o020_666 { 1 << 20 | 3 } else { 0 },
            slot_flags: if cloexec { u32::from(flag::CLOEXEC) } else { 0 },
            ..FileInfo::default()
        };
        let old = self.tables.entry(table).or_default().insert(fd, Open { file, cloexec });
        assert!(old.is_none(), "fd {fd} is open already");
        Install { fd, file, cloexec, source: Source::New, path: None, looked: u64::MAX }
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::new()
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is not a number"))
}

fn errno(name: &str) -> i32 {
    (1..200).find(|errno| errno_name(*errno) == Some(name)).unwrap_or_else(|| panic!("no error `{name}`"))
}

fn by_name(name: &str) -> &'static Syscall {
    let mut calls = (0..512).filter_map(|nr| syscalls::lookup(Arch::X86_64, nr));
    calls.find(|call| call.name == name).unwrap_or_else(|| panic!("no call `{name}`"))
}
