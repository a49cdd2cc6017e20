//! What each line holds. Written out here and not derived from the types of other stages, so that a field renamed there
//! does not break a reader elsewhere.
//!
//! Bytes that are not UTF-8 stand escaped in the usual key, and exactly, in base64, in a second one that ends in `_b64`
//! and is there only then. Addresses are strings: a JavaScript number does not hold them.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    detect::finding::{Act, Finding, Frame, Name, Owner, Who},
    escape::escape_terminal,
    sink::{
        fold::Repeat,
        lifetime::{Alike, Lifetime},
        run::{Loss, Mark, RunMeta, Summary, Target},
    },
};

/// Something that is told in a line of its own.
pub trait Record {
    const TYPE: &'static str;

    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;
}

/// A record with what every line has.
pub struct Line<'a, R> {
    pub schema: &'a str,
    pub seq: u64,
    pub record: &'a R,
}

impl<R: Record> Serialize for Line<'_, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", R::TYPE)?;
        map.serialize_entry("schema", self.schema)?;
        map.serialize_entry("seq", &self.seq)?;
        self.record.fields(&mut map)?;
        map.end()
    }
}

pub struct MetaForm<'a> {
    pub meta: &'a RunMeta,
}

impl Record for MetaForm<'_> {
    const TYPE: &'static str = "meta";

    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let RunMeta { version, schema: _, kernel, started_wall: _, started_boot, targets, already_open } = self.meta;
        map.serialize_entry("version", version)?;
        map.serialize_entry("kernel", kernel)?;
        time(map, *started_boot, self.meta.wall(*started_boot))?;
        map.serialize_entry("targets", &targets.iter().map(TargetForm).collect::<Vec<_>>())?;
        map.serialize_entry("already_open", already_open)
    }
}

struct TargetForm<'a>(&'a Target);

impl Serialize for TargetForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Target { pid, name: process, cmdline } = self.0;
        let arguments = cmdline.0.strip_suffix(b"\0").unwrap_or(&cmdline.0);
        let arguments: Vec<String> = match arguments {
            [] => Vec::new(),
            some => some.split(|byte| *byte == 0).map(readable).collect(),
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("pid", pid)?;
        name(&mut map, "process", process)?;
        map.serialize_entry("cmdline", &arguments)?;
        map.end()
    }
}

pub struct FindingForm<'a> {
    pub finding: &'a Finding,
    pub wall: Option<Timestamp>,
}

impl Record for FindingForm<'_> {
    const TYPE: &'static str = "finding";

    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Finding {
            rule,
            confidence,
            severity,
            incident,
            pid,
            inside,
            process,
            fd,
            generation,
            message,
            culprit,
            victim,
            root_cause,
            timeline,
            advice,
            complete,
            time: at,
        } = self.finding;
        map.serialize_entry("rule", rule)?;
        map.serialize_entry("confidence", confidence)?;
        map.serialize_entry("severity", severity)?;
        map.serialize_entry("incident", incident)?;
        time(map, *at, self.wall)?;
        map.serialize_entry("pid", pid)?;
        let inside = inside.iter().find(|(outside, _)| outside == pid).map(|(_, inside)| inside);
        map.serialize_entry("pid_inside", &inside)?;
        name(map, "process", process)?;
        map.serialize_entry("fd", fd)?;
        map.serialize_entry("generation", generation)?;
        map.serialize_entry("message", message)?;
        map.serialize_entry("culprit", &culprit.as_ref().map(ActForm))?;
        map.serialize_entry("victim", &victim.as_ref().map(ActForm))?;
        map.serialize_entry("root_cause", &root_cause.as_ref().map(ActForm))?;
        map.serialize_entry("timeline", &timeline.iter().map(ActForm).collect::<Vec<_>>())?;
        map.serialize_entry("complete", complete)?;
        map.serialize_entry("advice", advice)
    }
}

struct ActForm<'a>(&'a Act);

impl Serialize for ActForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Act {
            time,
            enter_time,
            pid,
            tid,
            process,
            fd,
            generation,
            verb,
            call,
            error,
            object,
            role,
            remark,
            ambiguous,
            who: Who { owner, task, python, native, unwound: _ },
        } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", time)?;
        map.serialize_entry("enter_time", enter_time)?;
        map.serialize_entry("pid", pid)?;
        map.serialize_entry("tid", tid)?;
        name(&mut map, "process", process)?;
        map.serialize_entry("fd", fd)?;
        map.serialize_entry("generation", generation)?;
        map.serialize_entry("verb", verb)?;
        map.serialize_entry("call", call)?;
        map.serialize_entry("error", error)?;
        name(&mut map, "object", object)?;
        map.serialize_entry("role", role)?;
        map.serialize_entry("remark", remark)?;
        map.serialize_entry("ambiguous", ambiguous)?;
        map.serialize_entry("owner", &owner.as_ref().map(OwnerForm))?;
        optional_name(&mut map, "task", task.as_ref())?;
        map.serialize_entry("python", &python.iter().map(FrameForm).collect::<Vec<_>>())?;
        map.serialize_entry("native", &native.iter().map(FrameForm).collect::<Vec<_>>())?;
        map.end()
    }
}

struct OwnerForm<'a>(&'a Owner);

impl Serialize for OwnerForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Owner { kind, address } = self.0;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("kind", kind)?;
        map.serialize_entry("address", &format!("{address:#x}"))?;
        map.end()
    }
}

struct FrameForm<'a>(&'a Frame);

impl Serialize for FrameForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Frame { function, file, line, module, source } = self.0;
        let mut map = serializer.serialize_map(None)?;
        name(&mut map, "function", function)?;
        optional_name(&mut map, "file", file.as_ref())?;
        map.serialize_entry("line", line)?;
        optional_name(&mut map, "module", module.as_ref())?;
        map.serialize_entry("source", source)?;
        map.end()
    }
}

pub struct LifetimeForm<'a> {
    pub lifetime: &'a Lifetime,
    /// When it began.
    pub wall: Option<Timestamp>,
}

impl Record for LifetimeForm<'_> {
    const TYPE: &'static str = "lifetime";

    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Lifetime {
            pid,
            process,
            table,
            fd,
            generation,
            description,
            kind,
            object,
            cloexec,
            opened,
            closed,
            successor: _,
            folded,
        } = self.lifetime;
        time(map, opened.time, self.wall)?;
        map.serialize_entry("pid", pid)?;
        name(map, "process", process)?;
        map.serialize_entry("table", table)?;
        map.serialize_entry("fd", fd)?;
        map.serialize_entry("generation", generation)?;
        map.serialize_entry("description", description)?;
        map.serialize_entry("kind", kind)?;
        name(map, "object", object)?;
        map.serialize_entry("cloexec", cloexec)?;
        map.serialize_entry("opened", &ActForm(opened))?;
        map.serialize_entry("closed", &closed.as_ref().map(ActForm))?;
        if let Some(Alike { count, open_ns, longest_ns }) = folded {
            let [count, open, longest] = [("count", count), ("open_ns", open_ns), ("longest_ns", longest_ns)];
            map.serialize_entry("alike", &BTreeMap::from([count, open, longest]))?;
        }
        Ok(())
    }
}

/// The same mistake, seen again.
pub struct RepeatForm<'a> {
    pub repeat: &'a Repeat,
    pub first_wall: Option<Timestamp>,
    pub last_wall: Option<Timestamp>,
}

impl Record for RepeatForm<'_> {
    const TYPE: &'static str = "repeat";

    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Repeat { count, incident, first, last } = self.repeat;
        map.serialize_entry("count", count)?;
        map.serialize_entry("first_incident", incident)?;
        time(map, *first, self.first_wall)?;
        map.serialize_entry("last", &Last(&FindingForm { finding: last, wall: self.last_wall }))
    }
}

/// The last example: a finding in a finding's form.
struct Last<'a>(&'a FindingForm<'a>);

impl Serialize for Last<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.0.fields(&mut map)?;
        map.end()
    }
}

pub struct LossForm<'a> {
    pub loss: &'a Loss,
    pub wall: Option<Timestamp>,
}

impl Record for LossForm<'_> {
    const TYPE: &'static str = "loss";

    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Loss { time: until, since, by_class } = self.loss;
        time(map, *until, self.wall)?;
        map.serialize_entry("since", since)?;
        map.serialize_entry("lost", &by_class.iter().map(|(_, count)| count).sum::<u64>())?;
        map.serialize_entry("by_class", &Counts(by_class))
    }
}

pub struct MarkForm<'a> {
    pub mark: &'a Mark,
    pub wall: Option<Timestamp>,
}

impl Record for MarkForm<'_> {
    const TYPE: &'static str = "mark";

    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Mark { time: at, pid, tid, number } = self.mark;
        time(map, *at, self.wall)?;
        map.serialize_entry("pid", pid)?;
        map.serialize_entry("tid", tid)?;
        map.serialize_entry("number", number)
    }
}

pub struct EndForm<'a> {
    pub summary: &'a Summary,
}

impl Record for EndForm<'_> {
    const TYPE: &'static str = "end";

    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Summary { events, produced, lost, lost_by_class, uncertain_ns, findings, duration_ns } = self.summary;
        map.serialize_entry("events", events)?;
        map.serialize_entry("produced", produced)?;
        map.serialize_entry("lost", lost)?;
        map.serialize_entry("lost_by_class", &Counts(lost_by_class))?;
        map.serialize_entry("uncertain_ns", uncertain_ns)?;
        map.serialize_entry("duration_ns", duration_ns)?;
        map.serialize_entry("findings", &findings.total)?;
        let levels = [("proven", findings.proven), ("likely", findings.likely), ("possible", findings.possible)];
        map.serialize_entry("by_confidence", &Counts(&levels))?;
        let levels = [("high", findings.high), ("medium", findings.medium), ("note", findings.note)];
        map.serialize_entry("by_severity", &Counts(&levels))?;
        map.serialize_entry("incidents", &findings.incidents())
    }
}

/// An object of numbers, in the order given.
struct Counts<'a>(&'a [(&'static str, u64)]);

impl Serialize for Counts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

fn time<M: SerializeMap>(map: &mut M, boot: u64, wall: Option<Timestamp>) -> Result<(), M::Error> {
    map.serialize_entry("time", &boot)?;
    map.serialize_entry("time_iso", &wall.map(|wall| format!("{wall:.9}")))
}

fn optional_name<M: SerializeMap>(map: &mut M, key: &str, value: Option<&Name>) -> Result<(), M::Error> {
    match value {
        Some(value) => name(map, key, value),
        None => map.serialize_entry(key, &None::<&str>),
    }
}

fn name<M: SerializeMap>(map: &mut M, key: &str, value: &Name) -> Result<(), M::Error> {
    map.serialize_entry(key, &readable(&value.0))?;
    if str::from_utf8(&value.0).is_err() {
        map.serialize_entry(&format!("{key}_b64"), &BASE64_STANDARD.encode(&value.0))?;
    }
    Ok(())
}

/// The text itself, which JSON can hold; only what is no text is escaped.
fn readable(bytes: &[u8]) -> String {
    str::from_utf8(bytes).map_or_else(|_| escape_terminal(bytes), str::to_owned)
}
