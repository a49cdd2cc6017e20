//! Section `attach`: from the start of fdtrace until everything that was open is known.

use anyhow::Result;
use serde_json::json;

use super::{
    figure::{Samples, Table, short},
    tracer::Bench,
};

pub fn section(bench: &Bench) -> Result<Vec<Table>> {
    let most: u64 = if bench.quick { 100_000 } else { 1_000_000 };
    let mut table = Table::new(
        "start and attach, by descriptors of the target",
        &["descriptors", "stacks", "until attached", "spread", "more than with none"],
    );
    for (stacks, options) in [("no", &["--no-stacks"][..]), ("yes", &[])] {
        let mut empty = None;
        for count in [10, 1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|count| *count <= most) {
            let (held, others, processes) = bench.hold(count)?;
            if processes > 1 && stacks == "no" {
                table.note(format!("{count} in {processes} processes, for none may have so many here."));
            }
            let mut samples = Samples::default();
            for _ in 0..bench.rounds.min(3) {
                let attached = bench.attach_all(held.pid(), &others, options)?;
                samples.push(attached.took.as_secs_f64());
                attached.end()?;
            }
            let more = samples.median() - *empty.get_or_insert(samples.median());
            let cells = [
                count.to_string(),
                stacks.to_owned(),
                format!("{} s", short(samples.median())),
                format!("{}–{}", short(samples.low()), short(samples.high())),
                format!("{} s", short(more)),
            ];
            let data = json!({ "descriptors": count, "stacks": stacks, "seconds": samples.0,
                "median": samples.median(), "more": more });
            table.row(&cells, data);
        }
    }
    Ok(vec![table])
}
