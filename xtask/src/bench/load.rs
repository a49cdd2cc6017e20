//! The loops that are measured, and processes that only hold descriptors: `cargo xtask load`, which the benchmark starts.
//!
//! A loop times itself, so that what a tracer needs to start is not in the figure.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    io::dup,
    process::{Resource, Rlimit, getppid, getrlimit, setrlimit},
};

#[derive(Args)]
pub struct Options {
    #[arg(value_enum)]
    kind: Kind,
    /// Iterations, descriptors or lifetimes
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Descriptors that are open at a time (churn)
    #[arg(long, default_value_t = 100)]
    live: usize,
    /// Processes that hold descriptors (hold)
    #[arg(long, default_value_t = 1)]
    processes: u32,
    /// Descriptor events a second (storm)
    #[arg(long, default_value_t = 1_000_000)]
    rate: u64,
    /// Begin when the standard input has a line, after saying `ready`; end when it is closed (hold)
    #[arg(long)]
    wait: bool,
    /// Where to write the result
    #[arg(long)]
    result: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// open and close
    Openclose,
    /// socketpair and two closes
    Socket,
    /// eventfd, `epoll_ctl` twice, `epoll_wait`, close
    Epoll,
    /// A child that runs `true`
    Fork,
    /// A call that nobody traces
    Getppid,
    /// write and read of one byte
    Pipe,
    /// dup and close at a given rate: `count` seconds
    Storm,
    /// `count` lifetimes, of which `live` are under way at a time
    Churn,
    /// `count` descriptors in each of `processes`, until the standard input is closed
    Hold,
}

/// What one iteration took, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub wall: f64,
    pub cpu: f64,
}

impl Timing {
    /// As [`load`] writes it.
    pub fn parse(text: &str) -> Result<Self> {
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [wall, cpu] = numbers[..] else { bail!("`{text}` is no result of a load") };
        Ok(Self { wall, cpu })
    }
}

pub fn load(options: &Options) -> Result<()> {
    if options.kind == Kind::Hold {
        return hold(options);
    }
    if options.wait {
        say_ready()?;
        io::stdin().read_line(&mut String::new())?;
    }
    // Page faults and first look-ups are nobody's cost. Where the count is seconds, they do not matter.
    if options.kind != Kind::Storm {
        run(options, options.count.min(100))?;
    }
    let (began, cpu) = (Instant::now(), cpu_ns()?);
    let count = run(options, options.count)?;
    let (wall, cpu) = (began.elapsed().as_nanos() as f64, (cpu_ns()? - cpu) as f64);
    let text = format!("{} {}\n", wall / count as f64, cpu / count as f64);
    match &options.result {
        Some(path) => fs::write(path, text).with_context(|| format!("cannot write {}", path.display())),
        None => Ok(io::stdout().write_all(text.as_bytes())?),
    }
}

fn run(options: &Options, count: u64) -> Result<u64> {
    match options.kind {
        Kind::Openclose => (0..count).try_for_each(|_| open_null().map(drop))?,
        Kind::Socket => (0..count).try_for_each(|_| UnixStream::pair().map(drop))?,
        Kind::Epoll => epolls(count)?,
        Kind::Fork => {
            for _ in 0..count {
                ensure!(Command::new("/bin/true").status()?.success(), "/bin/true failed");
            }
        }
        Kind::Getppid => (0..count).for_each(|_| {
            std::hint::black_box(getppid());
        }),
        Kind::Pipe => {
            let (mut reader, mut writer) = io::pipe()?;
            for _ in 0..count {
                writer.write_all(b"x")?;
                reader.read_exact(&mut [0])?;
            }
        }
        Kind::Storm => return storm(options.rate, Duration::from_secs(count)),
        Kind::Churn => {
            let mut open = VecDeque::new();
            for _ in 0..count {
                open.push_back(open_null()?);
                if open.len() > options.live {
                    open.pop_front();
                }
            }
        }
        Kind::Hold => {}
    }
    Ok(count)
}

fn open_null() -> io::Result<File> {
    File::open("/dev/null")
}

fn epolls(count: u64) -> Result<()> {
    let instance = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    for token in 0..count {
        let event = eventfd(1, EventfdFlags::CLOEXEC)?;
        epoll::add(&instance, &event, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        let mut ready = Vec::<epoll::Event>::with_capacity(1);
        epoll::wait(&instance, rustix::buffer::spare_capacity(&mut ready), Some(&now))?;
        epoll::delete(&instance, &event)?;
    }
    Ok(())
}

/// Events of a storm between two looks at the clock.
const AT_ONCE: u64 = 1000;

/// Makes descriptors and closes them at a rate, and says how many events that were. By `dup`, the cheapest that there is:
/// one processor has to make them all, for the other one reads them.
fn storm(rate: u64, time: Duration) -> Result<u64> {
    let null = open_null()?;
    let began = Instant::now();
    let mut events = 0;
    while began.elapsed() < time {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        if events >= due {
            thread::sleep(Duration::from_micros(200));
        }
        // Not all that is due, for it may never catch up.
        let until = due.min(events + AT_ONCE);
        while events < until {
            drop(dup(&null)?);
            events += 2;
        }
    }
    Ok(events)
}

/// Holds descriptors, in this process and in copies of it, until the standard input is closed.
fn hold(options: &Options) -> Result<()> {
    let most = most_open();
    ensure!(options.count <= most, "a process may have {most} descriptors here");
    let mut children = Vec::new();
    // A pipe that all have: its end is the end of all.
    let (mut reader, writer) = io::pipe()?;
    for _ in 1..options.processes {
        // SAFETY: there is one thread, and the child does nothing that needs another one.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()).context("cannot make another process"),
            0 => {
                drop(writer);
                let _open = open_many(options.count);
                let _ = reader.read(&mut [0]);
                std::process::exit(0);
            }
            child => children.push(child),
        }
    }
    let _open = open_many(options.count)?;
    // The last of the children may still be busy.
    thread::sleep(Duration::from_millis(u64::from(options.processes)));
    say_ready()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(writer);
    for child in children {
        // SAFETY: a child of ours; nobody is told its status.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
    Ok(())
}

/// Raises the limit of open files as far as we may, and says how many descriptors a process can be given.
pub fn most_open() -> u64 {
    let most = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    // Not even root may everywhere.
    if setrlimit(Resource::Nofile, most).is_err() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20).saturating_sub(64)
}

fn open_many(count: u64) -> io::Result<Vec<File>> {
    (0..count).map(|_| open_null()).collect()
}

fn say_ready() -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(b"ready\n")?;
    out.flush()
}

/// Processor time of this thread, which is the only one, nanoseconds. Not from the clock, for rustix reads that in the
/// vDSO, which valgrind hides.
fn cpu_ns() -> Result<u64> {
    let path = "/proc/self/schedstat";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let time = text.split_whitespace().next().and_then(|time| time.parse().ok());
    time.with_context(|| format!("`{}` of {path} does not begin with a time", text.trim_end()))
}
