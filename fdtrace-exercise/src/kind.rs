//! Kinds of descriptors: what the exerciser makes, and the names under which a model and the kernel are compared.

/// What a descriptor is, and what the exerciser can do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    None,
    File,
    Dir,
    Char,
    /// Opened with `O_PATH`, whatever it is.
    Path,
    Pipe,
    /// Any socket that is not one of the next three.
    Socket,
    Listener,
    /// One end of a stream or datagram pair.
    Pair,
    /// A datagram socket with a name, which receives descriptors.
    Mailbox,
    Eventfd,
    Epoll,
    Timerfd,
    Signalfd,
    Memfd,
    Inotify,
    Pidfd,
    Uring,
    Mqueue,
    Fanotify,
    Userfault,
    PerfEvent,
    Bpf,
    Landlock,
    Seccomp,
    Namespace,
    Terminal,
    Secret,
    Fscontext,
    Mount,
}

impl Kind {
    pub fn from_raw(raw: u8) -> Self {
        const ALL: [Kind; 30] = [
            Kind::None,
            Kind::File,
            Kind::Dir,
            Kind::Char,
            Kind::Path,
            Kind::Pipe,
            Kind::Socket,
            Kind::Listener,
            Kind::Pair,
            Kind::Mailbox,
            Kind::Eventfd,
            Kind::Epoll,
            Kind::Timerfd,
            Kind::Signalfd,
            Kind::Memfd,
            Kind::Inotify,
            Kind::Pidfd,
            Kind::Uring,
            Kind::Mqueue,
            Kind::Fanotify,
            Kind::Userfault,
            Kind::PerfEvent,
            Kind::Bpf,
            Kind::Landlock,
            Kind::Seccomp,
            Kind::Namespace,
            Kind::Terminal,
            Kind::Secret,
            Kind::Fscontext,
            Kind::Mount,
        ];
        ALL.get(usize::from(raw)).copied().unwrap_or(Self::None)
    }

    /// A kind of the class; the most general when there are several.
    pub fn of_class(class: &str) -> Self {
        (1..30).map(Self::from_raw).find(|kind| kind.class() == Some(class)).unwrap_or(Self::Path)
    }

    /// The name under which it is compared with the kernel; `None` when the kernel may show one of several.
    pub fn class(self) -> Option<&'static str> {
        Some(match self {
            Self::None | Self::Path | Self::Mount => return None,
            Self::File | Self::Memfd | Self::Secret | Self::Mqueue => "file",
            Self::Dir => "dir",
            Self::Char | Self::Terminal => "char",
            Self::Pipe => "pipe",
            Self::Socket | Self::Listener | Self::Pair | Self::Mailbox => "socket",
            Self::Eventfd => "eventfd",
            Self::Epoll => "eventpoll",
            Self::Timerfd => "timerfd",
            Self::Signalfd => "signalfd",
            Self::Inotify => "inotify",
            Self::Pidfd => "pidfd",
            Self::Uring => "io_uring",
            Self::Fanotify => "fanotify",
            Self::Userfault => "userfaultfd",
            Self::PerfEvent => "perf_event",
            Self::Bpf => "bpf-map",
            Self::Landlock => "landlock-ruleset",
            Self::Seccomp => "seccomp notify",
            Self::Namespace => "namespace",
            Self::Fscontext => "fscontext",
        })
    }
}

const S_IFMT: u32 = 0o170_000;

/// The class of a descriptor as the kernel shows it: its `st_mode` and the link under `/proc/PID/fd`.
///
/// Anonymous inodes give the name between `anon_inode:[` and `]`; all else the type of the file, in one word.
pub fn class_of(mode: u32, link: &str) -> String {
    if let Some(name) = anonymous(link) {
        return name.to_owned();
    }
    if let Some((name, _)) = link.split_once(":[")
        && !name.starts_with('/')
        && !matches!(name, "pipe" | "socket")
    {
        return "namespace".to_owned();
    }
    of_mode(mode).to_owned()
}

fn of_mode(mode: u32) -> &'static str {
    match mode & S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "dir",
        libc::S_IFCHR => "char",
        libc::S_IFBLK => "block",
        libc::S_IFIFO => "pipe",
        libc::S_IFSOCK => "socket",
        libc::S_IFLNK => "symlink",
        _ => "unknown",
    }
}

fn anonymous(link: &str) -> Option<&str> {
    let name = link.strip_prefix("anon_inode:")?;
    Some(name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name))
}

/// Brings a model's word for a kind to the class it is compared under, so that a model may say `epoll`, `[eventpoll]`
/// or `anon_inode:[eventpoll]`. Words that are not known stand for themselves.
pub fn normalise(word: &str) -> String {
    let word = anonymous(word).unwrap_or(word).trim_matches(['[', ']']);
    match word {
        "epoll" => "eventpoll",
        "regular" | "regular file" | "reg" | "memfd" | "tmpfile" | "secretmem" | "mqueue" => "file",
        "directory" => "dir",
        "chr" | "character" | "character device" | "chardev" | "tty" | "device" => "char",
        "blk" | "block device" => "block",
        "fifo" => "pipe",
        "sock" => "socket",
        "event" => "eventfd",
        "timer" => "timerfd",
        "signal" => "signalfd",
        "uring" | "io-uring" => "io_uring",
        "perf" | "perf-event" | "perf_fd" => "perf_event",
        "userfault" => "userfaultfd",
        "ns" | "nsfs" => "namespace",
        "landlock" => "landlock-ruleset",
        "seccomp" => "seccomp notify",
        "link" => "symlink",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_and_a_model_meet_in_one_word() {
        assert_eq!(class_of(0o600, "anon_inode:[eventpoll]"), normalise("epoll"));
        assert_eq!(class_of(0o600, "anon_inode:inotify"), normalise("inotify"));
        assert_eq!(class_of(libc::S_IFIFO | 0o600, "pipe:[77]"), normalise("fifo"));
        assert_eq!(class_of(libc::S_IFREG | 0o644, "/tmp/a:[b]"), normalise("file"));
        assert_eq!(class_of(libc::S_IFREG | 0o444, "pid:[4026531836]"), "namespace");
    }

    #[test]
    fn raw_kinds_come_back() {
        for raw in 0..30 {
            assert_eq!(Kind::from_raw(raw) as u8, raw);
        }
        assert_eq!(Kind::from_raw(99), Kind::None);
    }
}
