//! Numbers of the syscalls the exerciser makes, for both architectures.
//!
//! Written out rather than taken from a library: a C library may lack the newest, and some, such as `open`, are never
//! issued by the wrapper of the same name. A negative number does not exist on the architecture.

macro_rules! numbers {
    ($($constant:ident $name:literal $x86_64:literal $aarch64:literal),+ $(,)?) => {
        $(
            #[cfg(target_arch = "x86_64")]
            pub const $constant: i64 = $x86_64;
            #[cfg(target_arch = "aarch64")]
            pub const $constant: i64 = $aarch64;
        )+

        /// All syscalls that the exerciser makes.
        pub const NAMES: &[&str] = &[$($name),+];

        /// The name of a syscall that the exerciser makes.
        pub fn name(nr: i64) -> &'static str {
            match nr {
                $($constant if nr >= 0 => $name,)+
                _ => "syscall",
            }
        }
    };
}

numbers! {
    OPEN "open" 2 -1, OPENAT "openat" 257 56, OPENAT2 "openat2" 437 437, CREAT "creat" 85 -2,
    CLOSE "close" 3 57, CLOSE_RANGE "close_range" 436 436,
    DUP "dup" 32 23, DUP2 "dup2" 33 -3, DUP3 "dup3" 292 24, FCNTL "fcntl" 72 25,
    PIPE "pipe" 22 -4, PIPE2 "pipe2" 293 59,
    SOCKET "socket" 41 198, SOCKETPAIR "socketpair" 53 199, BIND "bind" 49 200, LISTEN "listen" 50 201,
    CONNECT "connect" 42 203, ACCEPT "accept" 43 202, ACCEPT4 "accept4" 288 242, GETSOCKNAME "getsockname" 51 204,
    GETSOCKOPT "getsockopt" 55 209, SETSOCKOPT "setsockopt" 54 208, SHUTDOWN "shutdown" 48 210,
    SENDMSG "sendmsg" 46 211, RECVMSG "recvmsg" 47 212, RECVMMSG "recvmmsg" 299 243, RECVFROM "recvfrom" 45 207,
    EVENTFD "eventfd" 284 -5, EVENTFD2 "eventfd2" 290 19,
    EPOLL_CREATE "epoll_create" 213 -6, EPOLL_CREATE1 "epoll_create1" 291 20, EPOLL_CTL "epoll_ctl" 233 21,
    EPOLL_WAIT "epoll_wait" 232 -7, EPOLL_PWAIT "epoll_pwait" 281 22, EPOLL_PWAIT2 "epoll_pwait2" 441 441,
    TIMERFD_CREATE "timerfd_create" 283 85, TIMERFD_SETTIME "timerfd_settime" 286 86,
    SIGNALFD "signalfd" 282 -8, SIGNALFD4 "signalfd4" 289 74,
    MEMFD_CREATE "memfd_create" 319 279, MEMFD_SECRET "memfd_secret" 447 447,
    INOTIFY_INIT "inotify_init" 253 -9, INOTIFY_INIT1 "inotify_init1" 294 26,
    INOTIFY_ADD_WATCH "inotify_add_watch" 254 27,
    READ "read" 0 63, WRITE "write" 1 64, PREAD64 "pread64" 17 67, FSTAT "fstat" 5 80, LSEEK "lseek" 8 62,
    SENDFILE "sendfile" 40 71, IOCTL "ioctl" 16 29, FTRUNCATE "ftruncate" 77 46, POLL "poll" 7 -10, PPOLL "ppoll" 271 73,
    PSELECT6 "pselect6" 270 72,
    MMAP "mmap" 9 222, MUNMAP "munmap" 11 215, MKDIRAT "mkdirat" 258 34, FCHDIR "fchdir" 81 50, FCHMOD "fchmod" 91 52,
    FSYNC "fsync" 74 82, FLOCK "flock" 73 32, READV "readv" 19 65, GETDENTS64 "getdents64" 217 61,
    COPY_FILE_RANGE "copy_file_range" 326 285, SPLICE "splice" 275 76, TEE "tee" 276 77,
    FORK "fork" 57 -11, VFORK "vfork" 58 -12, CLONE "clone" 56 220, CLONE3 "clone3" 435 435,
    EXECVE "execve" 59 221, EXECVEAT "execveat" 322 281, EXIT "exit" 60 93, EXIT_GROUP "exit_group" 231 94,
    UNSHARE "unshare" 272 97, PRLIMIT64 "prlimit64" 302 261, PRCTL "prctl" 157 167,
    FUTEX "futex" 202 98, NANOSLEEP "nanosleep" 35 101, GETPID "getpid" 39 172, GETTID "gettid" 186 178,
    KILL "kill" 62 129, TGKILL "tgkill" 234 131, CLOCK_GETTIME "clock_gettime" 228 113, SCHED_YIELD "sched_yield" 24 124,
    WAIT4 "wait4" 61 260, WAITID "waitid" 247 95,
    RT_SIGPROCMASK "rt_sigprocmask" 14 135, RT_SIGACTION "rt_sigaction" 13 134,
    PIDFD_OPEN "pidfd_open" 434 434, PIDFD_GETFD "pidfd_getfd" 438 438,
    IO_URING_SETUP "io_uring_setup" 425 425, IO_URING_ENTER "io_uring_enter" 426 426,
    IO_URING_REGISTER "io_uring_register" 427 427,
    MQ_OPEN "mq_open" 240 180, MQ_UNLINK "mq_unlink" 241 181,
    FANOTIFY_INIT "fanotify_init" 300 262, FANOTIFY_MARK "fanotify_mark" 301 263,
    USERFAULTFD "userfaultfd" 323 282, NAME_TO_HANDLE_AT "name_to_handle_at" 303 264,
    OPEN_BY_HANDLE_AT "open_by_handle_at" 304 265, FSOPEN "fsopen" 430 430, FSCONFIG "fsconfig" 431 431,
    FSMOUNT "fsmount" 432 432, FSPICK "fspick" 433 433, OPEN_TREE "open_tree" 428 428,
    OPEN_TREE_ATTR "open_tree_attr" 467 467, PERF_EVENT_OPEN "perf_event_open" 298 241, BPF "bpf" 321 280,
    LANDLOCK_CREATE_RULESET "landlock_create_ruleset" 444 444, SECCOMP "seccomp" 317 277, GETPPID "getppid" 110 173,
}
