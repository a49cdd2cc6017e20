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

/// A server under test, and how to ask it for its throughput.
struct Server {
    name: &'static str,
    /// Ended when the section is over.
    child: Child,
    pid: u32,
    client: Box<dyn Fn() -> Result<f64>>,
}

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
        &["server", "tool", "requests/s", "spread", "of untraced", "CPU of fdtrace"],
    );
    for start in [asyncio, postgres, redis] {
        let server = match start(bench) {
            Ok(server) => server,
            Err(error) => {
                table.note(format!("Not measured: {error:#}."));
                continue;
            }
        };
        let [mut plain, mut floor, mut traced, mut strace, mut cpu] = [const { Samples(Vec::new()) }; 5];
        (server.client)()?;
        for _ in 0..bench.rounds {
            plain.push((server.client)()?);
            let empty = Floor::attach()?;
            floor.push((server.client)()?);
            drop(empty);
            let (pids, attached) = attach(bench, server.pid)?;
            // Interpreters and libraries are looked at once.
            thread::sleep(Duration::from_secs(1));
            let before = attached.cpu()?;
            let began = std::time::Instant::now();
            traced.push((server.client)()?);
            cpu.push((attached.cpu()? - before) / began.elapsed().as_secs_f64() * 100.0);
            attached.end()?;
            if let Some(around) = PEERS[0].around() {
                strace.push(under_strace(&around, server.pid, &pids, &server.client)?);
            }
        }
        let tools = [
            ("untraced", &plain, None),
            ("two empty hooks", &floor, None),
            ("fdtrace", &traced, Some(cpu.median())),
            ("strace", &strace, None),
        ];
        for (tool, samples, cpu) in tools {
            if samples.0.is_empty() {
                continue;
            }
            let ratio = samples.median() / plain.median() * 100.0;
            let cells = [
                server.name.to_owned(),
                tool.to_owned(),
                short(samples.median()),
                format!("{}–{}", short(samples.low()), short(samples.high())),
                format!("{ratio:.1} %"),
                cpu.map_or_else(String::new, |cpu| format!("{cpu:.1} % of a core")),
            ];
            let data = json!({ "server": server.name, "tool": tool, "per_second": samples.0,
                "median": samples.median(), "percent": ratio, "fdtrace_cpu_percent": cpu });
            table.row(&cells, data);
        }
    }
    Ok(vec![table])
}

/// Attaches to a server with the processes that it has begun, some of which may end meanwhile.
fn attach(bench: &Bench, pid: u32) -> Result<(Vec<String>, Attached)> {
    let mut tries = 0;
    loop {
        let pids = family(pid);
        match bench.attach_all(pid, &pids, &[]) {
            Ok(attached) => return Ok((pids, attached)),
            Err(error) if tries < 5 && format!("{error:#}").contains("there is no process") => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The processes that a server has begun.
fn family(pid: u32) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(str::to_owned).collect()
}

fn under_strace(around: &[String], pid: u32, others: &[String], client: &dyn Fn() -> Result<f64>) -> Result<f64> {
    let mut strace = Command::new(&around[0]);
    // Seccomp filters are for programs that it starts.
    strace.args(around[1..].iter().filter(|word| *word != "--seccomp-bpf"));
    for pid in std::iter::once(&pid.to_string()).chain(others) {
        strace.args(["-p", pid]);
    }
    let mut strace = strace.stderr(Stdio::null()).spawn().context("cannot start strace")?;
    thread::sleep(Duration::from_millis(500));
    let result = client();
    let _ = Command::new("kill").args(["-INT", &strace.id().to_string()]).status();
    strace.wait()?;
    result
}

/// A connection for each request, as clients of such servers do.
const ASYNCIO: &str = r#"
import asyncio, sys
async def serve(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
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
port, seconds = int(sys.argv[1]), float(sys.argv[2])
async def one(until):
    done = 0
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.read()
        writer.close()
        done += 1
    return done
async def main():
    began = time.monotonic()
    done = await asyncio.gather(*[one(began + seconds) for _ in range(8)])
    print(sum(done) / (time.monotonic() - began))
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
    let client = move || {
        let output = Command::new(&python).args(["-c", ASYNCIO_CLIENT, &port, &seconds]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().parse().with_context(|| format!("the client failed: {}", String::from_utf8_lossy(&output.stderr)))
    };
    Ok(Server { name: "Python asyncio, one connection per request", child, pid, client: Box::new(client) })
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
    let client = move || {
        // A connection for each transaction: the hardest that pgbench has.
        let output = tool(&["-C", "-S", "-c", "4", "-T", &seconds]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
        let Some(tps) = line.and_then(|line| line.split_whitespace().next()?.parse().ok()) else {
            bail!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
        };
        Ok(tps)
    };
    Ok(Server { name: "PostgreSQL, pgbench -C -S", child, pid, client: Box::new(client) })
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
    let count = bench.scaled(400_000).to_string();
    let client = move || {
        let output = Command::new(&client).args(["-s", &socket, "-t", "get", "-n", &count, "--csv"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("\"GET\",\""));
        let Some(rate) = line.and_then(|line| line.split('"').next()?.parse().ok()) else {
            bail!("redis-benchmark failed: {text}");
        };
        Ok(rate)
    };
    Ok(Server { name: "redis, GET over 50 connections", child, pid, client: Box::new(client) })
}

fn seconds(bench: &Bench) -> String {
    if bench.quick { "2" } else { "5" }.to_owned()
}

fn need(program: &str) -> Result<PathBuf> {
    command::find(program).with_context(|| format!("{program} is not installed"))
}
