//! The open file description: what dup, fork and SCM_RIGHTS share.

use std::{
    cell::{Cell, OnceCell},
    rc::Rc,
};

use fdtrace_common::wire::FileInfo;

use crate::{collections::Map, event::Path, order::Stamp};

/// Our own name for a description, because the kernel's address of one is recycled within microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub u64);

#[derive(Debug)]
pub struct Description {
    pub serial: Serial,
    pub file: u64,
    /// Set once it is known: a listing at fork gives the address only, and the call that made it may return later.
    pub(super) details: OnceCell<Details>,
    /// The same with the path, where a reading of the table came first, which has none. Boxed: it is rarely so.
    pub(super) named: OnceCell<Box<Details>>,
    /// Live slots, in all tables that we see, that refer to it.
    pub holders: Cell<u32>,
    /// Epoll entries that watch it.
    pub watched: Cell<u32>,
    /// Another one is held at the same address, as far as the events tell: see [`super::identity`].
    pub(super) doubted: Cell<bool>,
}

#[derive(Clone, Debug)]
pub struct Details {
    pub info: FileInfo,
    pub kind: Kind,
    /// As given to open.
    pub path: Option<Path>,
    /// `None`: it was there before we looked, and its identity rests on its address.
    pub opened: Option<Rc<Stamp>>,
}

/// What a descriptor refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Directory,
    CharDevice,
    BlockDevice,
    Pipe,
    Socket {
        family: u16,
        sock_type: u16,
    },
    Eventpoll,
    Eventfd,
    Timerfd,
    Signalfd,
    Inotify,
    Fanotify,
    IoUring,
    Pidfd,
    Userfaultfd,
    PerfEvent,
    Bpf,
    Namespace,
    /// An anonymous inode of a kind that we have no name for.
    Anonymous,
    Unknown,
}

/// What file operations belong to which kind: the kernel gives anonymous inodes no other type.
#[derive(Debug, Default)]
pub struct Kinds(Map<u64, Kind>);

impl Kinds {
    /// `name` as in `anon_inode:[name]`.
    pub fn learn(&mut self, fop: u64, name: &[u8]) {
        let kind = match name {
            b"eventpoll" => Kind::Eventpoll,
            b"eventfd" => Kind::Eventfd,
            b"timerfd" => Kind::Timerfd,
            b"signalfd" => Kind::Signalfd,
            b"inotify" => Kind::Inotify,
            b"fanotify" => Kind::Fanotify,
            b"io_uring" => Kind::IoUring,
            b"pidfd" => Kind::Pidfd,
            b"userfaultfd" => Kind::Userfaultfd,
            b"perf_event" => Kind::PerfEvent,
            b"bpf" => Kind::Bpf,
            b"namespace" => Kind::Namespace,
            _ => Kind::Anonymous,
        };
        self.0.insert(fop, kind);
    }

    pub fn of(&self, info: &FileInfo) -> Kind {
        if info.file == 0 {
            return Kind::Unknown;
        }
        if let Some(kind) = self.0.get(&info.fop) {
            return *kind;
        }
        match info.mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o020_000 => Kind::CharDevice,
            0o060_000 => Kind::BlockDevice,
            0o010_000 => Kind::Pipe,
            0o140_000 => Kind::Socket { family: info.family, sock_type: info.sock_type },
            _ => Kind::Anonymous,
        }
    }
}

impl Kind {
    /// For people, and stable.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::CharDevice => "char-device",
            Self::BlockDevice => "block-device",
            Self::Pipe => "pipe",
            Self::Socket { .. } => "socket",
            Self::Eventpoll => "eventpoll",
            Self::Eventfd => "eventfd",
            Self::Timerfd => "timerfd",
            Self::Signalfd => "signalfd",
            Self::Inotify => "inotify",
            Self::Fanotify => "fanotify",
            Self::IoUring => "io_uring",
            Self::Pidfd => "pidfd",
            Self::Userfaultfd => "userfaultfd",
            Self::PerfEvent => "perf_event",
            Self::Bpf => "bpf",
            Self::Namespace => "namespace",
            Self::Anonymous => "anonymous",
            Self::Unknown => "unknown",
        }
    }
}

impl Details {
    /// Could this be the same file?
    pub fn is_of(&self, info: &FileInfo) -> bool {
        (self.info.inode, self.info.dev, self.info.fop) == (info.inode, info.dev, info.fop)
    }
}

impl Description {
    pub fn details(&self) -> Option<&Details> {
        self.named.get().map(AsRef::as_ref).or_else(|| self.details.get())
    }

    pub fn kind(&self) -> Kind {
        self.details().map_or(Kind::Unknown, |details| details.kind)
    }

    /// Tells what it is, unless that is known already.
    pub fn explain(&self, details: Details) {
        // Whoever came first saw it closer to its birth.
        if let Err(details) = self.details.set(details)
            && details.path.is_some()
            && self.details().is_some_and(|known| known.path.is_none() && known.is_of(&details.info))
        {
            let _ = self.named.set(Box::new(details));
        }
    }

    /// Which slots hold it is not settled.
    pub fn is_doubted(&self) -> bool {
        self.doubted.get()
    }

    /// Another live slot has it.
    pub(super) fn hold(&self) {
        self.holders.set(self.holders.get() + 1);
    }

    /// A slot lets go. `true`: nobody that we see refers to it any more.
    pub(super) fn release(&self) -> bool {
        let left = self.holders.get().saturating_sub(1);
        self.holders.set(left);
        left == 0
    }

    /// What to call it: its path, or its kind and inode as `/proc/PID/fd` shows them.
    pub fn object(&self) -> Rc<[u8]> {
        let Some(details) = self.details() else { return b"unknown file"[..].into() };
        if let Some(path) = &details.path {
            return Rc::clone(&path.bytes);
        }
        let (kind, info) = (details.kind, &details.info);
        let text = match kind {
            Kind::Pipe | Kind::Socket { .. } => format!("{}:[{}]", kind.name(), info.inode),
            Kind::File | Kind::Directory => format!("{} (inode {})", kind.name(), info.inode),
            Kind::CharDevice | Kind::BlockDevice => {
                format!("{} {}:{}", kind.name(), info.rdev >> 20, info.rdev & 0xf_ffff)
            }
            kind => kind.name().to_owned(),
        };
        text.as_bytes().into()
    }
}
