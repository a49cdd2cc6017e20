//! Section `recording`: bytes and time to keep a run, and time to go through it again.

use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    figure::{Table, short},
    kept,
    tracer::{Bench, Held},
};

pub fn section(bench: &Bench) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "recordings of the loop `openclose`",
        &[
            "stacks",
            "events",
            "bytes per event",
            "CPU of fdtrace per event, recording",
            "read by `report`",
            "read by `verify`",
        ],
    );
    for (stacks, count) in [(false, 2_000_000), (true, 200_000)] {
        let mut load = bench.load("openclose", bench.scaled(count));
        load.push("--wait".into());
        let held = Held::start(&load)?;
        let path = bench.path("run.fdt");
        let file = path.display().to_string();
        let mut options = vec!["--force", "-o", &file];
        if !stacks {
            options.push("--no-stacks");
        }
        let attached = bench.attach(held.pid(), &options)?;
        let before = attached.cpu()?;
        held.go()?;
        let ended = attached.end()?;
        let events = ended.number("events");
        let bytes = fs::metadata(&path)?.len() as f64;
        let mut reads = Vec::new();
        for verb in ["report", "verify"] {
            let began = Instant::now();
            let mut command = Command::new(&bench.fdtrace);
            let status = command.args([verb, &file]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            ensure!(status.success(), "fdtrace {verb} failed: {status}");
            reads.push(events / began.elapsed().as_secs_f64());
        }
        let each = (ended.cpu - before) * 1e9 / events;
        let cells = [
            if stacks { "yes" } else { "no" }.to_owned(),
            short(events),
            short(bytes / events),
            format!("{} ns", short(each)),
            format!("{} events/s", short(reads[0])),
            format!("{} events/s", short(reads[1])),
        ];
        let data = json!({ "stacks": stacks, "events": events, "bytes_each": bytes / events, "cpu_ns": each,
            "report_per_second": reads[0], "verify_per_second": reads[1] });
        table.row(&cells, data);
    }
    Ok(vec![table, kept::table(bench)?])
}
