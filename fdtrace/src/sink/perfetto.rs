//! A trace for <https://ui.perfetto.dev>: each process has a group of tracks, one for each descriptor number, with a slice
//! for each generation; findings are instants on a track of their own, and arrows lead to them from the slice they are
//! about.
//!
//! Packets are written as they come, in no order of time; Perfetto sorts them. What is remembered are the tracks, and
//! strings that are said once.

mod proto;
mod words;

use std::{
    collections::HashSet,
    fmt::Write as _,
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
    io::{self, Write},
};

use super::{
    Sink,
    lifetime::{Alike, Lifetime},
    run::{Loss, RunMeta, Summary},
};
use crate::{
    detect::finding::{Act, Finding, Frame, Name, Who},
    escape::escape_terminal,
};
use proto::{
    BOOTTIME, ChildOrdering, Clock, ClockSnapshot, DebugAnnotation, EventType, ProcessDescriptor, REALTIME,
    TracePacket, TrackDescriptor, TrackEvent, Value,
};
use words::Words;

/// All packets come from one writer.
const SEQUENCE: u32 = 1;

pub struct PerfettoSink<W: Write> {
    out: W,
    tracks: HashSet<u64>,
    words: Words,
    bytes: Vec<u8>,
}

impl<W: Write> PerfettoSink<W> {
    pub fn new(out: W) -> Self {
        Self { out, tracks: HashSet::new(), words: Words::default(), bytes: Vec::new() }
    }

    fn packet(&mut self, packet: TracePacket) -> io::Result<()> {
        let packet = TracePacket { trusted_packet_sequence_id: Some(SEQUENCE), ..packet };
        self.bytes.clear();
        // A trace is nothing but a row of packets, each as field 1.
        prost::encoding::message::encode(1, &packet, &mut self.bytes);
        self.out.write_all(&self.bytes)
    }

    fn track(&mut self, track: TrackDescriptor) -> io::Result<()> {
        let new = track.uuid.is_some_and(|uuid| self.tracks.insert(uuid));
        if !new {
            return Ok(());
        }
        self.packet(TracePacket { track_descriptor: Some(track), ..TracePacket::default() })
    }

    fn event(&mut self, time: u64, event: TrackEvent) -> io::Result<()> {
        let (timestamp, clock) = (Some(time), Some(BOOTTIME));
        let track_event = Some(event);
        let mut packet = TracePacket { timestamp, timestamp_clock_id: clock, track_event, ..TracePacket::default() };
        self.words.intern(&mut packet);
        self.packet(packet)
    }

    fn process(&mut self, pid: u32, process: &Name) -> io::Result<u64> {
        let uuid = uuid(("process", pid));
        self.track(TrackDescriptor {
            uuid: Some(uuid),
            process: Some(ProcessDescriptor { pid: Some(pid.cast_signed()), process_name: Some(text(process)) }),
            child_ordering: Some(ChildOrdering::Explicit.into()),
            ..TrackDescriptor::default()
        })?;
        Ok(uuid)
    }

    fn lane(&mut self, lifetime: &Lifetime) -> io::Result<u64> {
        let Lifetime { pid, table, fd, .. } = *lifetime;
        let process = self.process(pid, &lifetime.process)?;
        let group = uuid(("descriptors", pid, table));
        self.track(TrackDescriptor {
            uuid: Some(group),
            name: Some("File descriptors".to_owned()),
            parent_uuid: Some(process),
            child_ordering: Some(ChildOrdering::Explicit.into()),
            sibling_order_rank: Some(1),
            ..TrackDescriptor::default()
        })?;
        let lane = uuid(("lane", pid, table, fd));
        self.track(TrackDescriptor {
            uuid: Some(lane),
            name: Some(format!("fd {fd}")),
            parent_uuid: Some(group),
            sibling_order_rank: Some(fd),
            ..TrackDescriptor::default()
        })?;
        Ok(lane)
    }
}

fn uuid(what: impl Hash) -> u64 {
    let mut hasher = BuildHasherDefault::<DefaultHasher>::default().build();
    what.hash(&mut hasher);
    // 0 means the trace itself.
    hasher.finish().max(1)
}

trait Build {
    fn build(&self) -> DefaultHasher;
}

impl Build for BuildHasherDefault<DefaultHasher> {
    fn build(&self) -> DefaultHasher {
        // Without a random key, so that the same recording gives the same file.
        DefaultHasher::new()
    }
}

/// The arrow that leads from a generation to what happened because of it.
fn flow(pid: u32, fd: i32, generation: u32) -> u64 {
    uuid(("flow", pid, fd, generation))
}

fn text(name: &Name) -> String {
    escape_terminal(&name.0)
}

fn annotation(name: impl Into<String>, value: Value) -> DebugAnnotation {
    DebugAnnotation { name_iid: None, name: Some(name.into()), value: Some(value) }
}

fn note(name: impl Into<String>, value: impl Into<String>) -> DebugAnnotation {
    annotation(name, Value::String(value.into()))
}

fn count(name: &str, value: impl Into<i64>) -> DebugAnnotation {
    annotation(name, Value::Int(value.into()))
}

fn describe(act: &Act, label: &str, notes: &mut Vec<DebugAnnotation>) {
    let error = act.error.map_or_else(String::new, |error| format!(" = {error}"));
    let said = format!("{} {}{error} by {} (thread {})", act.verb.name(), act.call, text(&act.process), act.tid);
    notes.push(note(label, said));
    let Who { owner, task, python, native, unwound: _ } = &act.who;
    if let Some(owner) = owner {
        notes.push(note(format!("{label} owner"), format!("{} {:#x}", owner.kind, owner.address)));
    }
    if let Some(task) = task {
        notes.push(note(format!("{label} task"), text(task)));
    }
    for (kind, frames) in [("python", python), ("native", native)] {
        for (index, frame) in frames.iter().enumerate() {
            notes.push(note(format!("{label} {kind} {index}"), place(frame)));
        }
    }
}

fn place(frame: &Frame) -> String {
    let file = frame.file.as_ref().or(frame.module.as_ref()).map_or_else(String::new, text);
    let line = frame.line.map_or_else(String::new, |line| format!(":{line}"));
    format!("{} ({file}{line})", text(&frame.function))
}

impl<W: Write> Sink for PerfettoSink<W> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        let clock = |id, time| Clock { clock_id: Some(id), timestamp: Some(time) };
        let clocks = vec![clock(BOOTTIME, meta.started_boot), clock(REALTIME, meta.started_wall)];
        self.packet(TracePacket { clock_snapshot: Some(ClockSnapshot { clocks }), ..TracePacket::default() })
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let process = self.process(finding.pid, &finding.process)?;
        let track = uuid(("findings", finding.pid));
        self.track(TrackDescriptor {
            uuid: Some(track),
            name: Some("Findings".to_owned()),
            parent_uuid: Some(process),
            sibling_order_rank: Some(0),
            ..TrackDescriptor::default()
        })?;
        let mut notes = vec![
            note("message", &finding.message),
            note("confidence", finding.confidence.name()),
            note("severity", finding.severity.name()),
            count("fd", finding.fd),
            note("advice", finding.advice),
            annotation("complete", Value::Bool(finding.complete)),
        ];
        notes.extend(finding.generation.map(|generation| count("generation", generation)));
        let acts = [("root cause", &finding.root_cause), ("culprit", &finding.culprit), ("victim", &finding.victim)];
        for (label, act) in acts {
            if let Some(act) = act {
                describe(act, label, &mut notes);
            }
        }
        let flows = finding.generation.map(|generation| flow(finding.pid, finding.fd, generation));
        self.event(
            finding.time,
            TrackEvent {
                r#type: Some(EventType::Instant.into()),
                track_uuid: Some(track),
                categories: vec![finding.confidence.name().to_owned()],
                name: Some(finding.rule.to_owned()),
                debug_annotations: notes,
                // Not as its end: another finding may be about the same generation.
                flow_ids: flows.into_iter().collect(),
            },
        )
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        let track = uuid("loss");
        let name = Some("Lost events".to_owned());
        self.track(TrackDescriptor { uuid: Some(track), name, ..TrackDescriptor::default() })?;
        let notes = loss.by_class.iter().map(|(class, n)| count(class, i64::try_from(*n).unwrap_or(i64::MAX)));
        let begin = TrackEvent {
            r#type: Some(EventType::SliceBegin.into()),
            track_uuid: Some(track),
            name: Some("events lost".to_owned()),
            debug_annotations: notes.collect(),
            ..TrackEvent::default()
        };
        self.event(loss.since, begin)?;
        let r#type = Some(EventType::SliceEnd.into());
        self.event(loss.time.max(loss.since), TrackEvent { r#type, track_uuid: Some(track), ..TrackEvent::default() })
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        let lane = self.lane(lifetime)?;
        let Lifetime { pid, fd, generation, opened, closed, .. } = lifetime;
        let mut notes = vec![
            note("object", text(&lifetime.object)),
            count("generation", *generation),
            count("description", i64::try_from(lifetime.description).unwrap_or(i64::MAX)),
            annotation("cloexec", Value::Bool(lifetime.cloexec)),
        ];
        describe(opened, "opened", &mut notes);
        if let Some(closed) = closed {
            describe(closed, "closed", &mut notes);
        }
        let mut name = lifetime.kind.to_owned();
        if let Some(Alike { count: alike, .. }) = lifetime.folded {
            let _ = write!(name, " × {alike}");
            notes.push(count("alike", i64::try_from(alike).unwrap_or(i64::MAX)));
        }
        let begin = TrackEvent {
            r#type: Some(EventType::SliceBegin.into()),
            track_uuid: Some(lane),
            categories: vec![lifetime.kind.to_owned()],
            name: Some(name),
            debug_annotations: notes,
            flow_ids: vec![flow(*pid, *fd, *generation)],
        };
        self.event(opened.time, begin)?;
        let Some(ended) = lifetime.ended() else { return Ok(()) };
        let r#type = Some(EventType::SliceEnd.into());
        self.event(ended, TrackEvent { r#type, track_uuid: Some(lane), ..TrackEvent::default() })
    }

    fn end(&mut self, _summary: &Summary) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use prost::Message;
    use proto::InternedData;

    use super::*;
    use crate::sink::fixture;

    #[test]
    fn packets_can_be_read_back() {
        #[derive(Clone, PartialEq, Message)]
        struct Trace {
            #[prost(message, repeated, tag = "1")]
            packet: Vec<TracePacket>,
        }

        let mut sink = PerfettoSink::new(Vec::new());
        sink.meta(&fixture::meta("python3 a.py")).unwrap();
        let mut lifetime = fixture::lifetime(3, 7, b"\x1b</script>\xff");
        sink.lifetime(&lifetime).unwrap();
        lifetime.generation = 8;
        lifetime.closed = None;
        sink.lifetime(&lifetime).unwrap();
        let trace = Trace::decode(&sink.out[..]).unwrap();
        let events: Vec<_> = trace.packet.iter().filter_map(|packet| packet.track_event.as_ref()).collect();
        let kinds: Vec<i32> = events.iter().filter_map(|event| event.r#type).collect();
        assert_eq!(kinds, [1, 2, 1], "what is open has no end");
        let tracks = trace.packet.iter().filter(|packet| packet.track_descriptor.is_some()).count();
        assert_eq!(tracks, 3, "process, group and lane, each once");
        // Each word once, and each number that is used has its word.
        let flags: Vec<u32> = trace.packet.iter().filter_map(|packet| packet.sequence_flags).collect();
        assert_eq!(flags, [3, 2, 2], "the reader begins with the first event");
        let data: Vec<_> = trace.packet.iter().filter_map(|packet| packet.interned_data.as_ref()).collect();
        let words = |data: &&InternedData| {
            let values = data.debug_annotation_string_values.iter();
            values.map(|word| (word.iid.unwrap(), word.str.clone().unwrap())).collect::<Vec<_>>()
        };
        let known: HashMap<u64, String> = data.iter().flat_map(words).collect();
        assert_eq!(known.len(), data.iter().map(|data| words(data).len()).sum::<usize>(), "none twice");
        let said = events.iter().flat_map(|event| &event.debug_annotations).filter_map(|note| match note.value {
            Some(Value::Interned(iid)) => Some(known[&iid].as_str()),
            _ => None,
        });
        assert_eq!(said.filter(|word| word.contains("script")).count(), 2, "{known:?}");
    }
}
