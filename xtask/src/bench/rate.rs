//! Section `rate`: how many events a second get through, by ring size.

use anyhow::Result;
use serde_json::json;

use super::{
    figure::{Table, short},
    load::Timing,
    tracer::{Bench, Held},
};

/// KiB; 0: what fdtrace takes unasked.
const RINGS: [u32; 4] = [1024, 4096, 0, 65_536];
/// The last is more than one processor makes, so it shows how many that are.
const RATES: [u64; 4] = [200_000, 500_000, 1_000_000, 4_000_000];

pub fn section(bench: &Bench) -> Result<Vec<Table>> {
    let seconds = if bench.quick { 3 } else { 10 };
    let mut table = Table::new(
        format!("dup and close at a rate for {seconds} s, no stacks"),
        &["ring", "asked for", "reached", "captured", "lost", "produced = captured + lost", "CPU per event"],
    );
    for ring in RINGS {
        for rate in RATES {
            let mut load = bench.load("storm", seconds);
            load.extend(["--rate".into(), rate.to_string(), "--wait".into()]);
            let held = Held::start(&load)?;
            let size = ring.to_string();
            let mut options = vec!["--no-stacks"];
            if ring > 0 {
                options.extend(["--ring-size", &size]);
            }
            let attached = bench.attach(held.pid(), &options)?;
            let before = attached.cpu()?;
            held.go()?;
            let timing = Timing::parse(&std::fs::read_to_string(bench.path("result"))?)?;
            let ended = attached.end()?;
            let (events, lost, produced) = (ended.number("events"), ended.number("lost"), ended.number("produced"));
            let each = (ended.cpu - before) * 1e9 / events;
            let adds_up = (produced - events - lost).abs() < 0.5;
            let name = if ring == 0 { "default".to_owned() } else { format!("{} MiB", ring / 1024) };
            let cells = [
                name.clone(),
                format!("{rate}/s"),
                format!("{}/s", short(1e9 / timing.wall)),
                short(events),
                short(lost),
                if adds_up { "yes" } else { "NO" }.to_owned(),
                format!("{} ns", short(each)),
            ];
            let data = json!({ "ring": name, "rate": rate, "reached": 1e9 / timing.wall, "captured": events,
                "lost": lost, "produced": produced, "cpu_ns": each, "seconds": seconds });
            table.row(&cells, data);
        }
    }
    Ok(vec![table])
}
