//! Runs a program in this process.

use std::sync::{
    Arc,
    atomic::{AtomicI32, Ordering},
};

use super::program::{HANDLES, Kind, MANY, Op};

/// The numbers that handles hold. A handle that was closed keeps its last one, for mistakes.
type Numbers = Arc<[AtomicI32]>;

pub fn play(ops: &[Op]) {
    let numbers: Numbers = (0..HANDLES + 3).map(|_| AtomicI32::new(-1)).collect();
    // SAFETY: nobody here handles signals.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    run(ops, &numbers);
}

fn run(ops: &[Op], numbers: &Numbers) {
    let mut threads = Vec::new();
    let number = |handle: usize| numbers[handle].load(Ordering::SeqCst);
    let keep = |handle: usize, fd: i32| {
        must(fd >= 0, "open");
        numbers[handle].store(fd, Ordering::SeqCst);
    };
    for op in ops {
        match op {
            Op::Open(handle, kind) => keep(*handle, open(*kind)),
            Op::Use(handle) | Op::UseNumber(handle) => touch(number(*handle)),
            // SAFETY: every number in here has one owner, or none on purpose.
            Op::Close(handle) | Op::CloseNumber(handle) => unsafe {
                libc::close(number(*handle));
            },
            // SAFETY: numbers only.
            Op::Dup { from, to } => keep(*to, unsafe { libc::fcntl(number(*from), libc::F_DUPFD_CLOEXEC, 0) }),
            Op::Add { epoll, handle } => ctl(number(*epoll), libc::EPOLL_CTL_ADD, number(*handle)),
            Op::Del { epoll, handle } => ctl(number(*epoll), libc::EPOLL_CTL_DEL, number(*handle)),
            Op::Post(handle) => {
                let one = 1_u64.to_ne_bytes();
                // SAFETY: eight bytes are there to be read.
                unsafe { libc::write(number(*handle), one.as_ptr().cast(), 8) };
            }
            Op::Wait(epoll) => {
                let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
                // SAFETY: eight events are there to be written.
                unsafe { libc::epoll_wait(number(*epoll), events.as_mut_ptr(), 8, 0) };
            }
            Op::Fork(child) => {
                // SAFETY: the child makes system calls and ends. It is forked with no thread at work in between.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    run(child, numbers);
                    // SAFETY: nothing of ours runs after it.
                    unsafe { libc::_exit(0) };
                }
                // SAFETY: no status is asked for.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            }
            Op::Thread(ops) => {
                let (ops, numbers) = (ops.clone(), Arc::clone(numbers));
                threads.push(std::thread::spawn(move || run(&ops, &numbers)));
            }
            Op::Join => threads.drain(..).for_each(|thread| must(thread.join().is_ok(), "join")),
            Op::Loop { closes } => {
                for _ in 0..MANY {
                    // Not the file that others open and close, or it would be no leak.
                    let path = if *closes { c"/dev/zero" } else { c"/dev/full" };
                    // SAFETY: a string that ends with zero.
                    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
                    must(fd >= 0, "open");
                    touch(fd);
                    if *closes {
                        // SAFETY: opened here.
                        unsafe { libc::close(fd) };
                    }
                }
            }
        }
    }
    threads.into_iter().for_each(|thread| must(thread.join().is_ok(), "join"));
}

/// A forked child must not come back to the test harness that it is a copy of.
fn must(good: bool, call: &str) {
    if !good {
        eprintln!("{call}: {}", std::io::Error::last_os_error());
        // SAFETY: nothing of ours runs after it.
        unsafe { libc::_exit(3) };
    }
}

fn open(kind: Kind) -> i32 {
    // SAFETY: strings that end with zero, and two numbers to be written.
    unsafe {
        match kind {
            Kind::Zero => libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC),
            Kind::File => libc::open(c"/tmp".as_ptr(), libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC, 0o600),
            Kind::Socket => libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0),
            Kind::Event => libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC),
            Kind::Epoll => libc::epoll_create1(libc::EPOLL_CLOEXEC),
        }
    }
}

/// A call that every kind answers at once.
fn touch(fd: i32) {
    let mut bytes = [0_u8; 8];
    // SAFETY: eight bytes are there to be read or written.
    unsafe {
        if libc::write(fd, bytes.as_ptr().cast(), 8) < 0 {
            libc::read(fd, bytes.as_mut_ptr().cast(), 0);
        }
    }
}

fn ctl(epoll: i32, operation: i32, fd: i32) {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
    // SAFETY: an event is there to be read.
    let result = unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) };
    must(result == 0, "epoll_ctl");
}
