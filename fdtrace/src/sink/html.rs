//! One page with everything in it, to be opened from a disk: a timeline to zoom and search, the findings, and who did
//! what. It asks the network for nothing, and its policy forbids it to.
//!
//! The data is a row of JSON arrays, compressed and in base64, written while it comes: what is held in memory is one row.
//! Names are escaped here, and the page puts them in as text, never as markup.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use base64::{prelude::BASE64_STANDARD, write::EncoderWriter};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use super::{
    Sink,
    lifetime::Lifetime,
    run::{Loss, RunMeta, Summary},
};
use crate::{
    detect::finding::{Act, Finding, Frame, Name},
    escape::escape_terminal,
};

const PAGE: &str = include_str!("html/page.html");
/// Where the data goes.
const HERE: &str = "@DATA@";

type Encoder<W> = GzEncoder<EncoderWriter<'static, base64::engine::GeneralPurpose, W>>;

pub struct HtmlSink<W: Write> {
    /// `None`: over.
    rows: Option<Encoder<W>>,
    after: &'static str,
    started: u64,
    /// Stacks that the page has, by what they say; it numbers them as they come.
    stacks: HashMap<String, u32>,
    stack_bytes: usize,
}

/// Bytes of stacks that are remembered. Those that come later are written each time.
const STACKS_BYTES: usize = 32 << 20;

impl<W: Write> HtmlSink<W> {
    pub fn new(mut out: W) -> io::Result<Self> {
        let (before, after) = PAGE.split_once(HERE).unwrap_or((PAGE, ""));
        out.write_all(before.as_bytes())?;
        let rows = GzEncoder::new(EncoderWriter::new(out, &BASE64_STANDARD), Compression::fast());
        Ok(Self { rows: Some(rows), after, started: 0, stacks: HashMap::new(), stack_bytes: 0 })
    }

    fn row(&mut self, row: &Value) -> io::Result<()> {
        let Some(rows) = &mut self.rows else { return Ok(()) };
        serde_json::to_writer(&mut *rows, row)?;
        rows.write_all(b"\n")
    }

    /// Nanoseconds since the start, which a JavaScript number holds.
    fn time(&self, boot: u64) -> i64 {
        boot.cast_signed().wrapping_sub(self.started.cast_signed())
    }

    /// The number of a stack, which is written when it is new; `null`: there is none.
    fn stack(&mut self, act: &Act) -> io::Result<Value> {
        if act.who.python.is_empty() && act.who.native.is_empty() {
            return Ok(Value::Null);
        }
        let row = json!(["k", places(&act.who.python), places(&act.who.native)]);
        let said = row.to_string();
        if let Some(number) = self.stacks.get(&said) {
            return Ok(json!(number));
        }
        if self.stack_bytes > STACKS_BYTES {
            return Ok(json!([row[1], row[2]]));
        }
        self.row(&row)?;
        let number = self.stacks.len() as u32;
        self.stack_bytes += said.len();
        self.stacks.insert(said, number);
        Ok(json!(number))
    }

    fn act(&mut self, act: &Act) -> io::Result<Value> {
        let stack = self.stack(act)?;
        let owner = act.who.owner.as_ref().map(|owner| format!("{} {:#x}", owner.kind, owner.address));
        Ok(json!([
            self.time(act.time),
            act.verb.name(),
            act.call,
            act.pid,
            act.tid,
            text(&act.process),
            act.error,
            act.fd,
            act.generation,
            text(&act.object),
            act.role.map(|role| role.name()),
            act.remark,
            owner,
            act.who.task.as_ref().map(text),
            stack
        ]))
    }
}

fn text(name: &Name) -> String {
    escape_terminal(&name.0)
}

fn places(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(place).collect()
}

fn place(frame: &Frame) -> String {
    let file = frame.file.as_ref().or(frame.module.as_ref()).map_or_else(String::new, text);
    let line = frame.line.map_or_else(String::new, |line| format!(":{line}"));
    let source = frame
        .source
        .as_ref()
        .map_or_else(String::new, |source| format!("  {}", escape_terminal(source.trim().as_bytes())));
    format!("{}  {file}{line}{source}", text(&frame.function))
}

impl<W: Write> Sink for HtmlSink<W> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.started = meta.started_boot;
        let started = meta.wall(meta.started_boot).map(|time| format!("{time:.3}"));
        let targets: Vec<Value> = meta.targets.iter().map(|target| json!([target.pid, text(&target.name)])).collect();
        self.row(&json!(["m", meta.version, meta.kernel, started, targets]))
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let timeline: Vec<Value> = finding.timeline.iter().map(|act| self.act(act)).collect::<io::Result<_>>()?;
        let row = json!([
            "f",
            finding.rule,
            finding.confidence.name(),
            finding.severity.name(),
            finding.pid,
            text(&finding.process),
            finding.fd,
            finding.generation,
            finding.message,
            finding.advice,
            self.time(finding.time),
            finding.complete,
            timeline
        ]);
        self.row(&row)
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        let count: u64 = loss.by_class.iter().map(|(_, count)| count).sum();
        let row = json!(["x", self.time(loss.since), self.time(loss.time), count]);
        self.row(&row)
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        let opened = self.brief(&lifetime.opened)?;
        let closed = lifetime.closed.as_ref().map(|act| self.brief(act)).transpose()?;
        let row = json!([
            "l",
            lifetime.pid,
            text(&lifetime.process),
            lifetime.table,
            lifetime.fd,
            lifetime.generation,
            lifetime.description,
            lifetime.kind,
            text(&lifetime.object),
            u8::from(lifetime.cloexec),
            self.time(lifetime.opened.time),
            lifetime.ended().map(|ended| self.time(ended)),
            opened,
            closed,
            lifetime.alike().count
        ]);
        self.row(&row)
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        let row = json!(["e", summary.events, summary.lost, summary.findings.total, summary.duration_ns]);
        self.row(&row)?;
        let Some(rows) = self.rows.take() else { return Ok(()) };
        let mut out = rows.finish()?.finish()?;
        out.write_all(self.after.as_bytes())?;
        out.flush()
    }
}

impl<W: Write> HtmlSink<W> {
    /// An act whose descriptor is known from where it stands.
    fn brief(&mut self, act: &Act) -> io::Result<Value> {
        let owner = act.who.owner.as_ref().map(|owner| format!("{} {:#x}", owner.kind, owner.address));
        let stack = self.stack(act)?;
        let mut row =
            vec![json!(self.time(act.time)), json!(act.verb.name()), json!(act.call), json!(act.pid), json!(act.tid)];
        if owner.is_some() || act.who.task.is_some() || !stack.is_null() {
            row.extend([json!(owner), json!(act.who.task.as_ref().map(text)), stack]);
        }
        Ok(Value::Array(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::fixture;

    #[test]
    fn the_page_is_one_file_that_asks_nobody() {
        let mut sink = HtmlSink::new(Vec::new()).unwrap();
        sink.meta(&fixture::meta("python3 a.py")).unwrap();
        sink.lifetime(&fixture::lifetime(3, 1, b"</script><img src=x onerror=alert(1)>")).unwrap();
        let rows = sink.rows.take().unwrap();
        let page = String::from_utf8(rows.finish().unwrap().finish().unwrap()).unwrap() + sink.after;
        assert!(page.contains("default-src 'none'"));
        assert!(!page.contains("onerror"), "names stand in the data only");
        for word in ["http:", "https:", "innerHTML", "eval(", "src="] {
            assert!(!page.contains(word), "{word}");
        }
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(PAGE.contains(HERE));
    }
}
