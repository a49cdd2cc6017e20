//! Comma-separated values (RFC 4180), safe to open in a spreadsheet: a text that a spreadsheet would take for a formula
//! is given an apostrophe. Names are escaped as for a terminal, so a record is a line.

use std::io::{self, Write};

use jiff::Timestamp;

use super::{
    Sink,
    lifetime::Lifetime,
    run::{Loss, RunMeta, Summary},
};
use crate::{
    detect::finding::{Act, Finding, Name},
    escape::escape_terminal,
    plan::Table,
};

pub struct CsvSink<W: Write> {
    out: W,
    table: Table,
    meta: Option<RunMeta>,
}

const LIFETIMES: &str = "pid,process,table,fd,generation,description,kind,object,cloexec,opened_ns,opened,opened_how,\
    opened_call,opened_tid,closed_ns,closed,closed_how,closed_call,closed_tid,alike,open_ns";
const FINDINGS: &str = "rule,confidence,severity,incident,pid,process,fd,generation,time_ns,time,message,complete,\
    culprit_tid,culprit_call,victim_tid,victim_call";

impl<W: Write> CsvSink<W> {
    pub fn new(out: W, table: Table) -> Self {
        Self { out, table, meta: None }
    }

    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                line.push(',');
            }
            match cell {
                Cell::Number(number) => line.push_str(&number.to_string()),
                Cell::Nothing => {}
                Cell::Text(text) => line.push_str(&quoted(text)),
                Cell::Name(name) => line.push_str(&quoted(&escape_terminal(&name.0))),
                Cell::Time(time) => {
                    if let Some(time) = time {
                        line.push_str(&format!("{time:.9}"));
                    }
                }
            }
        }
        line.push_str("\r\n");
        self.out.write_all(line.as_bytes())
    }

    fn wall(&self, boot: u64) -> Option<Timestamp> {
        self.meta.as_ref()?.wall(boot)
    }
}

enum Cell<'a> {
    Number(i128),
    Text(&'a str),
    Name(&'a Name),
    Time(Option<Timestamp>),
    Nothing,
}

fn number(value: impl Into<i128>) -> Cell<'static> {
    Cell::Number(value.into())
}

/// A text as a cell that no spreadsheet computes.
fn quoted(text: &str) -> String {
    let formula = text.trim_start().starts_with(['=', '+', '-', '@', '\t', '\r', '|', '%', '＝', '＋', '－', '＠']);
    let guard = if formula { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

fn verb(act: &Act) -> &'static str {
    act.verb.name()
}

impl<W: Write> Sink for CsvSink<W> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.meta = Some(meta.clone());
        let head = match self.table {
            Table::Lifetimes => LIFETIMES,
            Table::Findings => FINDINGS,
        };
        write!(self.out, "{head}\r\n")
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        if self.table != Table::Findings {
            return Ok(());
        }
        let who = |act: &Option<Act>| act.as_ref().map_or(Cell::Nothing, |act| number(act.tid));
        let call = |act: &Option<Act>| act.as_ref().map_or("", |act| act.call);
        self.row(&[
            Cell::Text(finding.rule),
            Cell::Text(finding.confidence.name()),
            Cell::Text(finding.severity.name()),
            number(finding.incident),
            number(finding.pid),
            Cell::Name(&finding.process),
            number(finding.fd),
            finding.generation.map_or(Cell::Nothing, number),
            number(finding.time),
            Cell::Time(self.wall(finding.time)),
            Cell::Text(&finding.message),
            Cell::Text(if finding.complete { "true" } else { "false" }),
            who(&finding.culprit),
            Cell::Text(call(&finding.culprit)),
            who(&finding.victim),
            Cell::Text(call(&finding.victim)),
        ])
    }

    fn loss(&mut self, _loss: &Loss) -> io::Result<()> {
        Ok(())
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        if self.table != Table::Lifetimes {
            return Ok(());
        }
        let Lifetime { opened, closed, .. } = lifetime;
        let closed = closed.as_ref();
        self.row(&[
            number(lifetime.pid),
            Cell::Name(&lifetime.process),
            number(lifetime.table),
            number(lifetime.fd),
            number(lifetime.generation),
            number(lifetime.description),
            Cell::Text(lifetime.kind),
            Cell::Name(&lifetime.object),
            Cell::Text(if lifetime.cloexec { "true" } else { "false" }),
            number(opened.time),
            Cell::Time(self.wall(opened.time)),
            Cell::Text(verb(opened)),
            Cell::Text(opened.call),
            number(opened.tid),
            closed.map_or(Cell::Nothing, |act| number(act.time)),
            Cell::Time(closed.and_then(|act| self.wall(act.time))),
            Cell::Text(closed.map_or("", verb)),
            Cell::Text(closed.map_or("", |act| act.call)),
            closed.map_or(Cell::Nothing, |act| number(act.tid)),
            number(lifetime.alike().count),
            number(lifetime.alike().open_ns),
        ])
    }

    fn end(&mut self, _summary: &Summary) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_text() {
        for (text, cell) in [
            ("=HYPERLINK(1)", "\"'=HYPERLINK(1)\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("  +1", "\"'  +1\""),
            ("-1", "\"'-1\""),
            ("a \"b\", c", "\"a \"\"b\"\", c\""),
            ("/tmp/x=1", "\"/tmp/x=1\""),
        ] {
            assert_eq!(quoted(text), cell);
        }
    }
}
