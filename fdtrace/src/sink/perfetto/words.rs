//! Strings that are said once and named by a number from then on: the stacks of a loop are the same at each turn.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
};

use super::proto::{
    DebugAnnotation, InternedData, InternedString, SEQ_INCREMENTAL_STATE_CLEARED, SEQ_NEEDS_INCREMENTAL_STATE,
    TracePacket, Value,
};

/// With more than these of a kind, or bytes in them, they are forgotten, and so is what the reader remembers: programs choose
/// their names.
const WORDS: usize = 16_384;
const BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
pub(super) struct Words {
    names: Numbers,
    values: Numbers,
    /// The reader has been told to begin anew.
    begun: bool,
}

#[derive(Debug, Default)]
struct Numbers {
    known: HashMap<String, u64>,
    bytes: usize,
}

impl Numbers {
    fn is_full(&self) -> bool {
        self.known.len() >= WORDS || self.bytes >= BYTES
    }

    /// The number of a string, which is explained in `new` if the reader does not know it yet.
    fn say(&mut self, word: String, new: &mut Vec<InternedString>) -> u64 {
        // 0 means none.
        let next = self.known.len() as u64 + 1;
        match self.known.entry(word) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(entry) => {
                let word = entry.key().clone();
                self.bytes += word.len();
                new.push(InternedString { iid: Some(next), str: Some(word) });
                *entry.insert(next)
            }
        }
    }
}

impl Words {
    /// Says the names and texts of an event's annotations by number, and explains those that are new.
    pub fn intern(&mut self, packet: &mut TracePacket) {
        if self.names.is_full() || self.values.is_full() {
            *self = Self::default();
        }
        let mut new = InternedData::default();
        for annotation in packet.track_event.iter_mut().flat_map(|event| &mut event.debug_annotations) {
            self.annotation(annotation, &mut new);
        }
        if new != InternedData::default() {
            packet.interned_data = Some(new);
        }
        let cleared = if mem::replace(&mut self.begun, true) { 0 } else { SEQ_INCREMENTAL_STATE_CLEARED };
        packet.sequence_flags = Some(SEQ_NEEDS_INCREMENTAL_STATE | cleared);
    }

    fn annotation(&mut self, annotation: &mut DebugAnnotation, new: &mut InternedData) {
        let name = annotation.name.take();
        annotation.name_iid = name.map(|name| self.names.say(name, &mut new.debug_annotation_names));
        if let Some(Value::String(text)) = &mut annotation.value {
            let iid = self.values.say(mem::take(text), &mut new.debug_annotation_string_values);
            annotation.value = Some(Value::Interned(iid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::proto::TrackEvent, *};

    fn said(words: &mut Words, text: &str) -> TracePacket {
        let value = Some(Value::String(text.to_owned()));
        let note = DebugAnnotation { name_iid: None, name: Some("object".to_owned()), value };
        let event = TrackEvent { debug_annotations: vec![note], ..TrackEvent::default() };
        let mut packet = TracePacket { track_event: Some(event), ..TracePacket::default() };
        words.intern(&mut packet);
        packet
    }

    #[test]
    fn what_is_forgotten_is_explained_again() {
        let mut words = Words::default();
        assert!(said(&mut words, "first").interned_data.is_some());
        assert_eq!(said(&mut words, "first").interned_data, None);
        let cleared = (0..=WORDS).filter(|n| {
            let packet = said(&mut words, &format!("/tmp/{n}"));
            packet.sequence_flags == Some(SEQ_INCREMENTAL_STATE_CLEARED | SEQ_NEEDS_INCREMENTAL_STATE)
        });
        assert_eq!(cleared.count(), 1);
        let again = said(&mut words, "first").interned_data.expect("it is explained");
        assert_eq!(again.debug_annotation_string_values.len(), 1);
        // A few that are long.
        let long = "x".repeat(BYTES / 4);
        for n in 0..5 {
            assert!(said(&mut words, &format!("{n}{long}")).interned_data.is_some());
        }
        assert!(words.values.bytes <= BYTES, "{}", words.values.bytes);
    }
}
