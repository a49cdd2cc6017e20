//! Section `bystanders`: what processes pay that are not traced, while another one is and after that, beside what two hooks
//! cost that do nothing.

use anyhow::Result;
use serde_json::json;

use super::{
    figure::{Samples, Table, short},
    floor::Floor,
    tracer::{Bench, Held},
};

const CALLS: [(&str, u64); 3] = [("getppid", 5_000_000), ("pipe", 1_000_000), ("openclose", 500_000)];

pub fn section(bench: &Bench) -> Result<Vec<Table>> {
    let held = Held::start(&bench.load("hold", 10))?;
    let columns = ["loop", "hooks", "per iteration", "spread", "added"];
    let mut table = Table::new("processes that are not traced", &columns);
    // Before, with empty hooks, while attached, after: fdtrace is started anew in each round.
    let mut samples: Vec<[Samples; 4]> = CALLS.iter().map(|_| Default::default()).collect();
    for _ in 0..bench.rounds {
        let mut measure = |phase: usize| -> Result<()> {
            for ((kind, count), samples) in CALLS.iter().zip(&mut samples) {
                samples[phase].push(bench.time(&[], &bench.load(kind, bench.scaled(*count)))?.wall);
            }
            Ok(())
        };
        measure(0)?;
        let floor = Floor::attach()?;
        measure(1)?;
        drop(floor);
        let attached = bench.attach(held.pid(), &[])?;
        measure(2)?;
        attached.end()?;
        measure(3)?;
    }
    for ((kind, _), samples) in CALLS.iter().zip(&samples) {
        for (phase, name) in ["before", "empty ones", "fdtrace", "after"].iter().enumerate() {
            let added = samples[phase].median() - samples[0].median();
            let cells = [
                (*kind).to_owned(),
                (*name).to_owned(),
                format!("{} ns", short(samples[phase].median())),
                format!("{}–{}", short(samples[phase].low()), short(samples[phase].high())),
                format!("{added:+.0} ns"),
            ];
            let data = json!({ "loop": kind, "hooks": name, "ns": samples[phase].0,
                "median_ns": samples[phase].median(), "added_ns": added });
            table.row(&cells, data);
        }
    }
    Ok(vec![table])
}
