//! Section `servers`: throughput of servers while fdtrace is attached to them, with clients that are not traced.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{
    figure::{Samples, Table, short},
    floor::Floor,
    tracer::{Attached, Bench, PEERS},
};
use crate::command;

/// A server under test, and what it can be asked for.
struct Server {
    /// Ended when the section is over.
    child: Child,
    pid: u32,
    loads: Vec<(&'static str, Client)>,
}

type Client = Box<dyn Fn() -> Result<Answered>>;

/// What a client got.
struct Answered {
    /// In a second.
    rate: f64,
    requests: f64,
}

/// What a server did: requests in a second, and processor time of its own for each, microseconds.
struct Taken {
    rate: Samples,
    cost: Samples,
}

impl Taken {
    const fn new() -> Self {
        Self { rate: Samples(Vec::new()), cost: Samples(Vec::new()) }
    }

    /// Has a server asked once.
    fn round(&mut self, pid: u32, client: &Client) -> Result<()> {
        let before = cpu(pid)?;
        let answered = client()?;
        self.rate.push(answered.rate);
        self.cost.push((cpu(pid)? - before) / answered.requests.max(1.0) * 1e6);
        Ok(())
    }
}

/// Processor time of a server with the processes it has begun, also of those that have ended, seconds.
fn cpu(pid: u32) -> Result<f64> {
    let mut ticks = 0.0;
    for pid in std::iter::once(pid.to_string()).chain(family(pid)) {
        // One that has ended meanwhile is in its parent's.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let (_, fields) = stat.rsplit_once(')').context("no processor time in /proc/PID/stat")?;
        ticks += fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// Of the times in `/proc/PID/stat`, on every architecture that Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL takes SIGINT as the order to end at once and in order; the others do not mind.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        thread::sleep(Duration::from_millis(500));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn section(bench: &Bench) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "servers, default settings, clients not traced",
        &["server", "tool", "requests/s", "spread", "of untraced", "CPU a request", "of untraced", "CPU of fdtrace"],
    );
    for start in [asyncio, postgres, redis] {
        let server = match start(bench) {
            Ok(server) => server,
            Err(error) => {
                table.note(format!("Not measured: {error:#}."));
                continue;
            }
        };
        for (name, client) in &server.loads {
            if let Err(error) = measure(bench, &mut table, server.pid, name, client) {
                table.note(format!("{name}: not measured: {error:#}"));
            }
        }
    }
    Ok(vec![table])
}

/// A server under one kind of load, with and without tracers.
fn measure(bench: &Bench, table: &mut Table, pid: u32, name: &str, client: &Client) -> Result<()> {
    let [mut plain, mut floor, mut traced, mut strace] = [const { Taken::new() }; 4];
    let mut own = Samples(Vec::new());
    client()?;
    for _ in 0..bench.rounds {
        plain.round(pid, client)?;
        let empty = Floor::attach()?;
        floor.round(pid, client)?;
        drop(empty);
        let (pids, attached) = attach(bench, pid)?;
        // Interpreters and libraries are looked at once.
        thread::sleep(Duration::from_secs(1));
        let before = attached.cpu()?;
        let began = std::time::Instant::now();
        traced.round(pid, client)?;
        own.push((attached.cpu()? - before) / began.elapsed().as_secs_f64() * 100.0);
        attached.end()?;
        if let Some(around) = PEERS[0].around() {
            under_strace(&around, pid, &pids, || strace.round(pid, client))?;
        }
    }
    let tools = [
        ("untraced", &plain, None),
        ("two empty hooks", &floor, None),
        ("fdtrace", &traced, Some(own.median())),
        ("strace", &strace, None),
    ];
    for (tool, taken, own) in tools {
        if taken.rate.0.is_empty() {
            continue;
        }
        let of = |one: &Samples, whole: &Samples| one.median() / whole.median() * 100.0;
        let (percent, cost_percent) = (of(&taken.rate, &plain.rate), of(&taken.cost, &plain.cost));
        let cells = [
            name.to_owned(),
            tool.to_owned(),
            short(taken.rate.median()),
            format!("{}–{}", short(taken.rate.low()), short(taken.rate.high())),
            format!("{percent:.1} %"),
            format!("{:.1} µs", taken.cost.median()),
            format!("{cost_percent:.1} %"),
            own.map_or_else(String::new, |cpu| format!("{cpu:.1} % of a core")),
        ];
        let data = json!({ "server": name, "tool": tool, "per_second": taken.rate.0, "median": taken.rate.median(),
            "percent": percent, "cpu_us": taken.cost.0, "cpu_percent": cost_percent, "fdtrace_cpu_percent": own });
        table.row(&cells, data);
    }
    Ok(())
}

/// Attaches to a server with the processes that it has begun, some of which may end meanwhile.
fn attach(bench: &Bench, pid: u32) -> Result<(Vec<String>, Attached)> {
    let mut tries = 0;
    loop {
        let pids = family(pid);
        match bench.attach_all(pid, &pids, &[]) {
            Ok(attached) => return Ok((pids, attached)),
            Err(error) if tries < 5 && is_gone(&format!("{error:#}")) => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// One of the processes that fdtrace was to attach to was gone before it could.
fn is_gone(error: &str) -> bool {
    error.contains("there is no process") || error.contains("has ended")
}

/// The processes that a server has begun.
fn family(pid: u32) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(str::to_owned).collect()
}

fn under_strace(around: &[String], pid: u32, others: &[String], round: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut strace = Command::new(&around[0]);
    // Seccomp filters are for programs that it starts.
    strace.args(around[1..].iter().filter(|word| *word != "--seccomp-bpf"));
    for pid in std::iter::once(&pid.to_string()).chain(others) {
        strace.args(["-p", pid]);
    }
    let mut strace = strace.stderr(Stdio::null()).spawn().context("cannot start strace")?;
    thread::sleep(Duration::from_millis(500));
    let result = round();
    let _ = Command::new("kill").args(["-INT", &strace.id().to_string()]).status();
    strace.wait()?;
    result
}

/// Answers requests until the client has had enough, or says that it wants no more.
const ASYNCIO: &str = r#"
import asyncio
async def serve(reader, writer):
    close = False
    while not close:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            break
        close = b"close" in head
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"#;

const ASYNCIO_CLIENT: &str = r#"
import asyncio, sys, time
port, seconds, keep = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "keep"
async def one(until):
    done, writer = 0, None
    while time.monotonic() < until:
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" if keep else b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        await reader.readexactly(40)
        if not keep:
            writer.close()
            writer = None
        done += 1
    return done
async def main():
    began = time.monotonic()
    done = await asyncio.gather(*[one(began + seconds) for _ in range(8)])
    print(sum(done) / (time.monotonic() - began), sum(done))
asyncio.run(main())
"#;

fn asyncio(bench: &Bench) -> Result<Server> {
    let python = need("python3")?;
    let mut child = Command::new(&python).args(["-c", ASYNCIO]).stdout(Stdio::piped()).spawn()?;
    let mut port = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut port)?;
    let port = port.trim().to_owned();
    ensure!(!port.is_empty(), "the asyncio server did not start");
    let seconds = seconds(bench);
    let pid = child.id();
    let load = |way: &'static str| -> Client {
        let (python, port, seconds) = (python.clone(), port.clone(), seconds.clone());
        Box::new(move || {
            let output = Command::new(&python).args(["-c", ASYNCIO_CLIENT, &port, &seconds, way]).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut words = text.split_whitespace().map_while(|word| word.parse().ok());
            match (words.next(), words.next()) {
                (Some(rate), Some(requests)) => Ok(Answered { rate, requests }),
                _ => bail!("the client failed: {}", String::from_utf8_lossy(&output.stderr)),
            }
        })
    };
    let loads = vec![
        ("Python asyncio, 8 connections that stay", load("keep")),
        ("Python asyncio, one connection per request", load("close")),
    ];
    Ok(Server { child, pid, loads })
}

fn postgres(bench: &Bench) -> Result<Server> {
    let bin = fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    let bin = bin
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("bin"))
        .max()
        .context("PostgreSQL is not installed")?;
    let pgbench = command::find("pgbench").unwrap_or_else(|| bin.join("pgbench"));
    let data = bench.path("postgres");
    let quiet = |command: &mut Command| -> Result<()> {
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(
            output.status.success(),
            "{}: {}",
            command::shown(command),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(())
    };
    // It refuses to run as root.
    let as_postgres = |program: PathBuf| {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
        command
    };
    fs::create_dir_all(&data)?;
    quiet(Command::new("chown").arg("postgres").args([&data, &bench.scratch]))?;
    quiet(as_postgres(bin.join("initdb")).args(["-A", "trust", "-D"]).arg(&data))?;
    let socket = data.display().to_string();
    let child = as_postgres(bin.join("postgres"))
        .args(["-D", &socket, "-k", &socket, "-c", "listen_addresses=", "-c", "fsync=off"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut ready = false;
    for _ in 0..100 {
        ready = data.join(".s.PGSQL.5432").exists();
        if ready {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(ready, "PostgreSQL did not start");
    thread::sleep(Duration::from_secs(1));
    // runuser stays between us and it.
    let pid = fs::read_to_string(data.join("postmaster.pid"))?;
    let pid = pid.lines().next().and_then(|line| line.parse().ok()).context("PostgreSQL has no process id")?;
    let tool = move |arguments: &[&str]| {
        let mut command = Command::new(&pgbench);
        command.args(["-h", &socket, "-U", "postgres"]).args(arguments).arg("postgres");
        command
    };
    quiet(&mut tool(&["-i", "-q"]))?;
    let seconds = seconds(bench);
    let load = |options: &'static [&'static str]| -> Client {
        let (tool, seconds) = (tool.clone(), seconds.clone());
        Box::new(move || {
            let output = tool(&[options, &["-c", "4", "-T", &seconds]].concat()).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let number = |before: &str| -> Option<f64> {
                let line = text.lines().find_map(|line| line.strip_prefix(before))?;
                line.split([' ', '/']).next()?.parse().ok()
            };
            match (number("tps = "), number("number of transactions actually processed: ")) {
                (Some(rate), Some(requests)) => Ok(Answered { rate, requests }),
                _ => bail!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr)),
            }
        })
    };
    let loads = vec![
        ("PostgreSQL, pgbench", load(&[])),
        ("PostgreSQL, pgbench -S", load(&["-S"])),
        // A connection for each transaction: the hardest that pgbench has.
        ("PostgreSQL, pgbench -C -S", load(&["-C", "-S"])),
    ];
    Ok(Server { child, pid, loads })
}

fn redis(bench: &Bench) -> Result<Server> {
    let (server, client) = (need("redis-server")?, need("redis-benchmark")?);
    let socket = bench.path("redis.sock").display().to_string();
    let child = Command::new(server)
        .args(["--port", "0", "--unixsocket", &socket, "--save", "", "--appendonly", "no"])
        .current_dir(&bench.scratch)
        .stdout(Stdio::null())
        .spawn()?;
    thread::sleep(Duration::from_millis(500));
    let pid = child.id();
    let count = bench.scaled(400_000);
    let load = move || {
        let number = count.to_string();
        let output = Command::new(&client).args(["-s", &socket, "-t", "get", "-n", &number, "--csv"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("\"GET\",\""));
        let Some(rate) = line.and_then(|line| line.split('"').next()?.parse().ok()) else {
            bail!("redis-benchmark failed: {text}");
        };
        Ok(Answered { rate, requests: count as f64 })
    };
    Ok(Server { child, pid, loads: vec![("redis, GET over 50 connections", Box::new(load))] })
}

fn seconds(bench: &Bench) -> String {
    if bench.quick { "2" } else { "5" }.to_owned()
}

fn need(program: &str) -> Result<PathBuf> {
    command::find(program).with_context(|| format!("{program} is not installed"))
}
