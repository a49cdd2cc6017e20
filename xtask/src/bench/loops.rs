//! Section `loops`: the worst that can happen to a traced program, beside what other tools make of it.

use anyhow::Result;
use serde_json::json;

use super::{
    figure::{Samples, Table, short},
    tracer::{Bench, PEERS},
};

const LOOPS: [(&str, u64); 4] = [("openclose", 400_000), ("socket", 200_000), ("epoll", 100_000), ("fork", 500)];

/// A way to run a loop.
struct Way {
    name: String,
    before: Vec<String>,
    slower: u64,
    peer: Option<usize>,
    wall: Samples,
    cpu: Samples,
}

pub fn section(bench: &Bench) -> Result<Vec<Table>> {
    LOOPS.iter().map(|(kind, count)| one(bench, kind, bench.scaled(*count))).collect()
}

fn one(bench: &Bench, kind: &str, count: u64) -> Result<Table> {
    let way = |name: &str, before: Vec<String>| Way {
        name: name.to_owned(),
        before,
        slower: 1,
        peer: None,
        wall: Samples::default(),
        cpu: Samples::default(),
    };
    let mut ways = vec![
        way("untraced", Vec::new()),
        way("fdtrace --no-stacks", bench.around(&["--no-stacks"])),
        way("fdtrace", bench.around(&[])),
    ];
    let mut missing = Vec::new();
    for (index, peer) in PEERS.iter().enumerate() {
        match peer.around() {
            Some(before) => ways.push(Way { slower: peer.slower, peer: Some(index), ..way(peer.name, before) }),
            None => missing.push(peer.name),
        }
    }
    let mut failed = Vec::new();
    for _ in 0..bench.rounds {
        for way in &mut ways {
            if failed.iter().any(|(name, _)| *name == way.name) {
                continue;
            }
            let few = if kind == "fork" { 20 } else { 200 };
            let load = bench.load(kind, (count / way.slower).max(few));
            let load = way.peer.map_or_else(|| load.clone(), |peer| PEERS[peer].wrap(&load));
            match bench.time(&way.before, &load) {
                Ok(timing) => {
                    way.wall.push(timing.wall);
                    way.cpu.push(timing.cpu);
                }
                Err(error) => failed.push((way.name.clone(), format!("{error:#}"))),
            }
        }
    }
    let mut table =
        Table::new(format!("loop `{kind}`"), &["tool", "wall per iteration", "spread", "ratio", "CPU ratio"]);
    for way in ways.iter().filter(|way| !way.wall.0.is_empty()) {
        let (ratio, cpu) = (way.wall.median() / ways[0].wall.median(), way.cpu.median() / ways[0].cpu.median());
        let spread = format!("{}–{}", short(way.wall.low()), short(way.wall.high()));
        let cells = [
            way.name.clone(),
            format!("{} ns", short(way.wall.median())),
            spread,
            format!("{ratio:.2}×"),
            // What a stopped process does not use is not its processor time.
            if way.peer.is_some() { String::new() } else { format!("{cpu:.2}×") },
        ];
        let version = way.peer.map(|peer| PEERS[peer].version());
        let data = json!({ "tool": way.name, "version": version, "wall_ns": way.wall.0, "cpu_ns": way.cpu.0,
            "median_ns": way.wall.median(), "ratio": ratio, "cpu_ratio": cpu });
        table.row(&cells, data);
    }
    for peer in PEERS.iter().filter(|peer| !peer.remark.is_empty() && !missing.contains(&peer.name)) {
        table.note(format!("{}: {}.", peer.name, peer.remark));
    }
    if !missing.is_empty() {
        table.note(format!("Not installed: {}.", missing.join(", ")));
    }
    for (name, why) in failed {
        table.note(format!("{name} failed: {why}"));
    }
    Ok(table)
}
