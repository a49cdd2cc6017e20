//! Sections `cpu` and `memory`: what fdtrace itself uses.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    figure::{Samples, Table, short},
    tracer::{Bench, Held, Memory},
};

pub fn cpu(bench: &Bench) -> Result<Vec<Table>> {
    let mut table =
        Table::new("processor time of fdtrace for each event, rules on", &["loop", "stacks", "per event", "spread"]);
    for (kind, count, stacks) in [
        ("openclose", 2_000_000, false),
        ("socket", 500_000, false),
        ("epoll", 500_000, false),
        ("openclose", 300_000, true),
    ] {
        let mut samples = Samples::default();
        for _ in 0..bench.rounds {
            let mut load = bench.load(kind, bench.scaled(count));
            load.push("--wait".into());
            let held = Held::start(&load)?;
            let attached = bench.attach(held.pid(), if stacks { &[] } else { &["--no-stacks"] })?;
            let before = attached.cpu()?;
            held.go()?;
            let ended = attached.end()?;
            samples.push((ended.cpu - before) * 1e9 / ended.number("events"));
        }
        let name = if stacks { "yes" } else { "no" };
        let cells = [
            kind.to_owned(),
            name.to_owned(),
            format!("{} ns", short(samples.median())),
            format!("{}–{}", short(samples.low()), short(samples.high())),
        ];
        table.row(&cells, json!({ "loop": kind, "stacks": stacks, "ns": samples.0, "median_ns": samples.median() }));
    }
    let idle = idle(bench)?;
    Ok(vec![table, idle])
}

/// Attached to a process that does nothing.
fn idle(bench: &Bench) -> Result<Table> {
    let held = Held::start(&bench.load("hold", 1000))?;
    let attached = bench.attach(held.pid(), &[])?;
    // The first seconds belong to the start.
    thread::sleep(Duration::from_secs(3));
    let (before, began) = (attached.cpu()?, Instant::now());
    thread::sleep(Duration::from_secs(if bench.quick { 10 } else { 60 }));
    let share = (attached.cpu()? - before) / began.elapsed().as_secs_f64() * 100.0;
    attached.end()?;
    let mut table = Table::new("attached to a process that does nothing", &["time", "share of a core"]);
    let seconds = began.elapsed().as_secs();
    table.row(&[format!("{seconds} s"), format!("{share:.3} %")], json!({ "seconds": seconds, "percent": share }));
    Ok(table)
}

pub fn memory(bench: &Bench) -> Result<Vec<Table>> {
    Ok(vec![descriptors(bench)?, processes(bench)?, churn(bench)?])
}

fn descriptors(bench: &Bench) -> Result<Table> {
    let most: u64 = if bench.quick { 100_000 } else { 1_000_000 };
    let mut table = Table::new("memory by live descriptors", &MEMORY);
    let mut first = None;
    for count in [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|count| *count <= most) {
        let (held, others, in_processes) = bench.hold(count)?;
        if in_processes > 1 {
            table.note(format!("{count} in {in_processes} processes, for none may have so many here."));
        }
        let memory = measure(bench, &held, &others)?;
        let base = *first.get_or_insert((memory.own, count));
        row(&mut table, count as f64, memory, base, "descriptor");
    }
    Ok(table)
}

fn processes(bench: &Bench) -> Result<Table> {
    let most = if bench.quick { 1_000 } else { 10_000 };
    let mut table = Table::new("memory by processes, 100 descriptors each", &MEMORY);
    let mut first = None;
    for count in [10, 100, 1_000, 10_000].into_iter().filter(|count| *count <= most) {
        let memory = held(bench, 100, count)?;
        let base = *first.get_or_insert((memory.own, u64::from(count)));
        row(&mut table, f64::from(count), memory, base, "process");
    }
    Ok(table)
}

const MEMORY: [&str; 5] = ["count", "own memory", "resident", "peak", "growth by one more"];

fn row(table: &mut Table, count: f64, memory: Memory, (first, at): (f64, u64), what: &str) {
    let each = (memory.own - first) * 1024.0 / (count - at as f64);
    let mib = |kib: f64| format!("{} MiB", short(kib / 1024.0));
    let growth = if each.is_finite() { format!("{} bytes", short(each)) } else { String::new() };
    let cells = [short(count), mib(memory.own), mib(memory.resident), mib(memory.peak), growth];
    let data = json!({ "of": what, "count": count, "own_kib": memory.own, "resident_kib": memory.resident,
        "peak_kib": memory.peak, "bytes_each": if each.is_finite() { Some(each) } else { None } });
    table.row(&cells, data);
}

/// Memory of fdtrace when it has attached to processes with descriptors.
fn held(bench: &Bench, descriptors: u64, processes: u32) -> Result<Memory> {
    let (held, others) = bench.hold_each(descriptors, processes)?;
    measure(bench, &held, &others)
}

fn measure(bench: &Bench, held: &Held, others: &[String]) -> Result<Memory> {
    let attached = bench.attach_all(held.pid(), others, &[])?;
    thread::sleep(Duration::from_secs(1));
    let memory = attached.memory()?;
    attached.end()?;
    Ok(memory)
}

/// Lifetimes that come and go while as many are under way as before.
fn churn(bench: &Bench) -> Result<Table> {
    let count = if bench.quick { 1_000_000 } else { 10_000_000 };
    let mut load = bench.load("churn", count);
    load.extend(["--live".into(), "1000".into(), "--wait".into()]);
    let mut table = Table::new(
        format!("memory during a churn of {count} lifetimes, 1000 at a time"),
        &["part of the run", "own memory", "resident"],
    );
    let held = Held::start(&load)?;
    let attached = bench.attach(held.pid(), &["--no-stacks"])?;
    let runner = thread::spawn(move || held.go());
    let mut samples = Vec::new();
    while !runner.is_finished() {
        thread::sleep(Duration::from_millis(200));
        // Without anybody to trace it ends, and has no memory any more.
        let Ok(memory) = attached.memory() else { break };
        samples.push(memory);
    }
    runner.join().map_err(|_| anyhow::anyhow!("the load's thread died"))??;
    ensure!(!samples.is_empty(), "the load was over before anybody looked");
    for tenth in [1, 2, 5, 10] {
        let index = (samples.len() * tenth / 10).clamp(1, samples.len()) - 1;
        let Memory { own, resident, .. } = samples[index];
        let cells = [
            format!("{} %", tenth * 10),
            format!("{} MiB", short(own / 1024.0)),
            format!("{} MiB", short(resident / 1024.0)),
        ];
        table.row(&cells, json!({ "percent": tenth * 10, "own_kib": own, "resident_kib": resident }));
    }
    let ended = attached.end()?;
    table.note(format!("Events {}, lost {}.", ended.number("events"), ended.number("lost")));
    Ok(table)
}
