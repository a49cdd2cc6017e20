//! The life of a descriptor, act by act: which acts are shown. How a row looks is the table's business.

use std::collections::BTreeSet;

use super::{paint::Line, table::Table};
use crate::detect::finding::{Act, Verb};

/// Rows of a timeline that is not cut.
const ROWS: usize = 20;
/// Rows at either end that a cut spares.
const ENDS: usize = 3;

/// The rows, without a heading.
pub fn timeline(acts: &[Act], width: usize) -> Vec<Line> {
    let table = Table::fit(acts, width);
    let kept = kept(acts);
    let mut lines = Vec::new();
    let mut hidden = 0;
    for row in 0..acts.len() {
        if !kept.contains(&row) {
            hidden += 1;
            continue;
        }
        if hidden > 0 {
            table.gap(hidden, &mut lines);
            hidden = 0;
        }
        table.row(row, &mut lines);
    }
    lines
}

/// `slot 3`, `slots 3, 5`, or just that there is a timeline.
pub fn heading(acts: &[Act]) -> String {
    let fds: BTreeSet<i32> = acts.iter().map(|act| act.fd).filter(|fd| *fd >= 0).collect();
    let pids: BTreeSet<u32> = acts.iter().map(|act| act.pid).collect();
    let list = fds.iter().take(8).map(i32::to_string).collect::<Vec<_>>().join(", ");
    match (pids.len(), fds.len()) {
        (1, 1) => format!("slot {list}"),
        (1, 2..=8) => format!("slots {list}"),
        _ => "timeline".to_owned(),
    }
}

/// Rows to show: all, or the ends, those that play a part, and what stands directly before these.
fn kept(acts: &[Act]) -> BTreeSet<usize> {
    if acts.len() <= ROWS {
        return (0..acts.len()).collect();
    }
    let mut kept: BTreeSet<usize> = (0..ENDS).chain(acts.len() - ENDS..acts.len()).collect();
    let parts = acts.iter().enumerate().filter(|(_, act)| act.role.is_some()).map(|(row, _)| row);
    let births =
        acts.iter().enumerate().filter(|(_, act)| matches!(act.verb, Verb::Opened | Verb::Closed | Verb::Replaced));
    for row in parts.flat_map(|row| [row, row.saturating_sub(1)]).chain(births.map(|(row, _)| row)) {
        if kept.len() >= ROWS {
            break;
        }
        kept.insert(row);
    }
    // A single row takes no more room than the words that it is missing.
    let lonely =
        (1..acts.len() - 1).filter(|row| !kept.contains(row) && kept.contains(&(row - 1)) && kept.contains(&(row + 1)));
    let lonely: Vec<usize> = lonely.collect();
    kept.extend(lonely);
    kept
}
