//! Records of the witnesses: stacks, code objects, owners.

use std::rc::Rc;

use fdtrace_common::{
    wire::{self, Header},
    witness::{Bind, CANDIDATES_MAX, Code, FRAMES_MAX, PyFrame, Stack, TypeDef, kind, note},
};

use crate::{
    event::{CodeSeen, Event, PythonStack, StackSeen, What},
    who::python::objects,
};

use super::{DecodeError, event};

pub(super) fn decode(pos: u64, header: &Header, bytes: &[u8], short: DecodeError) -> Result<Event, DecodeError> {
    let what = match header.kind {
        kind::STACK => What::Stack(Box::new(stack(bytes).ok_or(short)?)),
        kind::CODE => What::Code(code(bytes).ok_or(short)?),
        kind::TYPE => {
            let (record, _) = wire::read::<TypeDef>(bytes).ok_or(short)?;
            What::OwnerType { class: record.class, name: front(&record.name, record.name_len).into() }
        }
        kind::BIND => {
            let (record, _) = wire::read::<Bind>(bytes).ok_or(short)?;
            let other = (record.other != 0).then_some(record.other);
            What::Bind { fd: record.fd, file: record.file, object: record.object, class: record.class, other }
        }
        kind => return Err(DecodeError::UnknownKind { pos, kind }),
    };
    Ok(event(pos, header, None, what))
}

fn stack(bytes: &[u8]) -> Option<StackSeen> {
    let (record, mut tail) = Stack::read(bytes)?;
    let has = |bit| record.notes & bit != 0;
    let count = usize::try_from(record.frames).ok().filter(|count| *count <= FRAMES_MAX)?;
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        let (frame, rest) = wire::read::<PyFrame>(tail)?;
        frames.push(frame);
        tail = rest;
    }
    let candidates = usize::try_from(record.candidates).unwrap_or(0).min(CANDIDATES_MAX);
    Some(StackSeen {
        call_time: record.call_time,
        nr: record.nr,
        python: has(note::PYTHON).then(|| PythonStack { frames, cut: has(note::FRAMES_CUT), task: task(&record) }),
        candidates: has(note::SEARCHED).then(|| record.candidate[..candidates].to_vec()),
        caller: record.caller,
        site: has(note::SITE).then_some(record.left[0]),
        variable: has(note::VARIABLE).then_some(record.left[1]),
        followed: has(note::FOLLOWED),
        at_exit: has(note::AT_EXIT),
    })
}

fn task(record: &Stack) -> Option<Rc<[u8]>> {
    if record.notes & note::TASK_NUMBER != 0 {
        let number = u64::from_ne_bytes(*record.task_name.first_chunk()?);
        return Some(format!("Task-{number}").into_bytes().into());
    }
    let name = text(&record.task_name, record.task_name_len, record.task_name_width);
    (!name.is_empty()).then_some(name)
}

fn code(bytes: &[u8]) -> Option<CodeSeen> {
    let (record, tail) = wire::read::<Code>(bytes)?;
    let table = tail.get(..usize::try_from(record.table_len).ok()?)?;
    Some(CodeSeen {
        code: record.code,
        checksum: record.checksum,
        code_version: record.code_version,
        fingerprint: record.fingerprint,
        python: record.python,
        first_line: record.first_line,
        file: text(&record.file, record.file_len, record.file_width),
        name: text(&record.name, record.name_len, record.name_width),
        table: table.into(),
        table_cut: record.table_len < record.table_total,
    })
}

/// A string as Python keeps it.
fn text(room: &[u8], len: u32, width: u32) -> Rc<[u8]> {
    objects::decode(width.clamp(1, 4) as usize, front(room, len)).into()
}

fn front(room: &[u8], len: u32) -> &[u8] {
    &room[..usize::try_from(len).unwrap_or(0).min(room.len())]
}
