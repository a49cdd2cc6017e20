//! Random programs that treat descriptors as they should, and single mistakes put into them. A program is what its seed
//! makes it, here and in the process that runs it.

use std::fmt;

/// Descriptors of one program.
pub const HANDLES: usize = 24;
/// A loop that opens more than anybody has of one kind on purpose.
pub const MANY: usize = 40;

/// A place where a program keeps a number, and the only one.
pub type Handle = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Zero,
    File,
    Socket,
    Event,
    Epoll,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Open(Handle, Kind),
    Use(Handle),
    Close(Handle),
    Dup {
        from: Handle,
        to: Handle,
    },
    Add {
        epoll: Handle,
        handle: Handle,
    },
    Del {
        epoll: Handle,
        handle: Handle,
    },
    /// Makes an event counter ready.
    Post(Handle),
    Wait(Handle),
    /// In a child, which the parent waits for.
    Fork(Vec<Op>),
    /// In a thread, which the first one waits for at `Join`.
    Thread(Vec<Op>),
    Join,
    /// Opens and closes so many times.
    Loop {
        closes: bool,
    },
    /// Mistakes are made with numbers: what the handle held when it was closed last.
    CloseNumber(Handle),
    UseNumber(Handle),
}

/// What is put into a correct program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    CloseTwice,
    CloseRaw,
    UseAfter,
    SkipClose,
    ShareEpoll,
    CloseRegistered,
}

impl Mistake {
    pub const ALL: [Self; 6] =
        [Self::CloseTwice, Self::CloseRaw, Self::UseAfter, Self::SkipClose, Self::ShareEpoll, Self::CloseRegistered];

    /// The rule that it breaks, and what follows from it or can be suspected because of it.
    pub fn rules(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::CloseTwice => ("double-close", &[]),
            Self::CloseRaw => ("use-after-close", &["stale-close", "double-close"]),
            // That an earlier life of the number was meant is possible, and told as that.
            Self::UseAfter => ("use-after-close", &["stale-close"]),
            Self::SkipClose => ("fd-leak", &[]),
            Self::ShareEpoll => ("epoll-shared-across-fork", &[]),
            Self::CloseRegistered => ("ghost-event", &[]),
        }
    }
}

/// Splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }
}

/// Writes a program, and knows at each point what it may do.
struct Author<'a> {
    random: &'a mut Random,
    ops: Vec<Op>,
    open: Vec<(Handle, Kind)>,
    free: Vec<Handle>,
    /// Registrations, and whether somebody else has a copy of what is registered.
    registered: Vec<(Handle, Handle)>,
}

/// A correct program.
pub fn correct(seed: u64) -> Vec<Op> {
    let mut random = Random::new(seed);
    let mut author = Author {
        random: &mut random,
        ops: Vec::new(),
        open: Vec::new(),
        free: (0..HANDLES).rev().collect(),
        registered: Vec::new(),
    };
    author.write(20, true);
    // What is left is closed by its owner, or by the end of the process.
    if author.random.below(2) == 0 {
        author.close_all();
    }
    author.ops
}

/// The same with one mistake.
pub fn mistaken(seed: u64, mistake: Mistake) -> Vec<Op> {
    let mut ops = correct(seed);
    // At a place where nobody else is at work.
    let mut quiet = vec![0];
    let mut threads = 0;
    for (at, op) in ops.iter().enumerate() {
        match op {
            Op::Thread(_) => threads += 1,
            Op::Join => threads = 0,
            _ => {}
        }
        if threads == 0 {
            quiet.push(at + 1);
        }
    }
    let mut random = Random::new(!seed);
    let at = quiet[random.below(quiet.len())];
    let [a, b, c] = [HANDLES, HANDLES + 1, HANDLES + 2];
    let kind = [Kind::Zero, Kind::File, Kind::Socket][random.below(3)];
    let insert = match mistake {
        Mistake::CloseTwice => vec![Op::Open(a, kind), Op::Use(a), Op::Close(a), Op::CloseNumber(a)],
        Mistake::CloseRaw => {
            vec![Op::Open(a, kind), Op::Close(a), Op::Open(b, kind), Op::CloseNumber(a), Op::Use(b), Op::Close(b)]
        }
        Mistake::UseAfter => vec![Op::Open(a, kind), Op::Use(a), Op::Close(a), Op::UseNumber(a)],
        Mistake::SkipClose => vec![Op::Loop { closes: false }],
        Mistake::ShareEpoll => vec![
            Op::Open(a, Kind::Epoll),
            Op::Open(b, Kind::Event),
            Op::Open(c, Kind::Event),
            Op::Add { epoll: a, handle: b },
            Op::Add { epoll: a, handle: c },
            Op::Fork(vec![Op::Del { epoll: a, handle: b }]),
            Op::Post(c),
            Op::Wait(a),
        ],
        Mistake::CloseRegistered => vec![
            Op::Open(a, Kind::Epoll),
            Op::Open(b, Kind::Event),
            Op::Add { epoll: a, handle: b },
            Op::Dup { from: b, to: c },
            Op::Close(b),
            Op::Post(c),
            Op::Wait(a),
        ],
    };
    ops.splice(at..at, insert);
    ops
}

impl Author<'_> {
    fn write(&mut self, length: usize, outer: bool) {
        let mut threads = 0;
        for _ in 0..length {
            match self.random.below(16) {
                0..=3 => self.open(),
                4..=6 => self.use_one(),
                7 | 8 => self.close(),
                9 => self.dup(),
                10 | 11 => self.register(),
                12 => self.wait(),
                13 if outer => self.fork(),
                14 if outer && threads < 3 => {
                    threads += 1;
                    self.thread();
                }
                15 if outer && threads > 0 => {
                    threads = 0;
                    self.ops.push(Op::Join);
                }
                15 if outer && self.random.below(4) == 0 => self.ops.push(Op::Loop { closes: true }),
                _ => self.use_one(),
            }
        }
        if threads > 0 {
            self.ops.push(Op::Join);
        }
    }

    fn open(&mut self) {
        let Some(handle) = self.free.pop() else { return };
        let kinds = [Kind::Zero, Kind::File, Kind::Socket, Kind::Event, Kind::Epoll];
        let kind = kinds[self.random.below(kinds.len())];
        self.open.push((handle, kind));
        self.ops.push(Op::Open(handle, kind));
    }

    fn use_one(&mut self) {
        if let Some((handle, kind)) = self.random.pick(&self.open) {
            self.ops.push(if kind == Kind::Epoll { Op::Wait(handle) } else { Op::Use(handle) });
        }
    }

    fn close(&mut self) {
        if let Some((handle, _)) = self.random.pick(&self.open) {
            self.close_one(handle);
        }
    }

    fn close_one(&mut self, handle: Handle) {
        // Taken out of the lists first: a copy might live on.
        for (epoll, _) in self.registered.extract_if(.., |(epoll, member)| *member == handle || *epoll == handle) {
            if epoll != handle {
                self.ops.push(Op::Del { epoll, handle });
            }
        }
        self.open.retain(|(other, _)| *other != handle);
        self.ops.push(Op::Close(handle));
        self.free.push(handle);
    }

    fn close_all(&mut self) {
        while let Some((handle, _)) = self.open.first().copied() {
            self.close_one(handle);
        }
    }

    fn dup(&mut self) {
        let Some((from, kind)) = self.random.pick(&self.open) else { return };
        if kind == Kind::Epoll {
            return;
        }
        let Some(to) = self.free.pop() else { return };
        self.open.push((to, kind));
        self.ops.push(Op::Dup { from, to });
    }

    fn register(&mut self) {
        let of = |open: &[(Handle, Kind)], wanted: Kind| -> Vec<Handle> {
            open.iter().filter(|(_, kind)| *kind == wanted).map(|(handle, _)| *handle).collect()
        };
        let (epolls, events) = (of(&self.open, Kind::Epoll), of(&self.open, Kind::Event));
        let (Some(epoll), Some(handle)) = (self.random.pick(&epolls), self.random.pick(&events)) else { return };
        match self.registered.iter().position(|pair| *pair == (epoll, handle)) {
            Some(at) => {
                self.registered.swap_remove(at);
                self.ops.push(Op::Del { epoll, handle });
            }
            None => {
                self.registered.push((epoll, handle));
                self.ops.push(Op::Add { epoll, handle });
                self.ops.push(Op::Post(handle));
            }
        }
    }

    fn wait(&mut self) {
        let epolls: Vec<Handle> =
            self.open.iter().filter(|(_, kind)| *kind == Kind::Epoll).map(|(handle, _)| *handle).collect();
        if let Some(epoll) = self.random.pick(&epolls) {
            self.ops.push(Op::Wait(epoll));
        }
    }

    /// A child works on what it opens itself, and closes copies of ours or leaves them alone.
    fn fork(&mut self) {
        let mut child = self.inner();
        let inherited: Vec<Handle> = self.open.iter().map(|(handle, _)| *handle).collect();
        for handle in inherited {
            // A registration would outlive it: its list is shared.
            let listed = self.registered.iter().any(|(_, member)| *member == handle);
            if !listed && self.random.below(2) == 0 {
                child.insert(0, Op::Close(handle));
            }
        }
        self.ops.push(Op::Fork(child));
    }

    /// A thread works on what it opens itself, or is given something for good.
    fn thread(&mut self) {
        let mut ops = Vec::new();
        let listed = |registered: &[(Handle, Handle)], handle| registered.iter().any(|(_, member)| *member == handle);
        let gifts: Vec<(Handle, Kind)> = self
            .open
            .iter()
            .filter(|(handle, kind)| *kind != Kind::Epoll && !listed(&self.registered, *handle))
            .copied()
            .collect();
        if let Some((gift, _)) = self.random.pick(&gifts) {
            self.open.retain(|(handle, _)| *handle != gift);
            ops.extend([Op::Use(gift), Op::Close(gift)]);
        }
        ops.extend(self.inner());
        self.ops.push(Op::Thread(ops));
    }

    /// A few ops on handles of their own, which are not given out again.
    fn inner(&mut self) -> Vec<Op> {
        let keep = self.free.len().saturating_sub(3);
        let free = self.free.split_off(keep);
        let mut inner = Author { random: self.random, ops: Vec::new(), open: Vec::new(), free, registered: Vec::new() };
        inner.write(8, false);
        inner.close_all();
        inner.ops
    }
}

/// One op a line, what is in a child or thread further in.
pub struct Shown<'a>(pub &'a [Op]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn lines(f: &mut fmt::Formatter<'_>, ops: &[Op], depth: usize) -> fmt::Result {
            for op in ops {
                let indent = "  ".repeat(depth);
                match op {
                    Op::Fork(_) => writeln!(f, "{indent}Fork")?,
                    Op::Thread(_) => writeln!(f, "{indent}Thread")?,
                    op => writeln!(f, "{indent}{op:?}")?,
                }
                if let Op::Fork(inner) | Op::Thread(inner) = op {
                    lines(f, inner, depth + 1)?;
                }
            }
            Ok(())
        }
        lines(f, self.0, 0)
    }
}
