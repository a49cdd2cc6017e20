//! Python's objects that own descriptors. Types are learned here, by their names and those of their bases.

use core::ffi::c_void;

use fdtrace_common::witness::{ClassKey, TypeDef, kind, owns};

use crate::{
    emit::{self, Subject},
    maps::CLASSES_SEEN,
    owner::{self, Seen},
    walk::{Walk, copy, peek},
};

/// `Py_TPFLAGS_TYPE_SUBCLASS`: the type's instances are types.
const TYPE_SUBCLASS: u64 = 1 << 31;
/// Bases that are followed: `socket.socket`, and what a program derives from it.
const BASES: usize = 6;

/// Fills [`Walk::seen`] with the object that begins with these words, if it owns descriptors and matters to the search.
#[inline(always)]
pub unsafe fn look(walk: *mut Walk, front: [u64; 3]) -> bool {
    let [_, class, fd] = front;
    // SAFETY: `walk` is this processor's.
    unsafe {
        // Before the type, which is dear: few things have such a number there.
        if !owner::matters(walk, fd as i32) || class & 7 != 0 || !(1 << 16..1 << 47).contains(&class) {
            return false;
        }
        let owns = classify(walk, class);
        if owns == owns::NOTHING {
            return false;
        }
        (*walk).seen = Seen { class, fd: fd as i32, behind: (fd >> 32) as u32, owns, reserved: 0 };
        true
    }
}

/// What a type's instances own. Tells user space on first sight of one whose instances own something.
#[inline(always)]
unsafe fn classify(walk: *mut Walk, class: u64) -> u32 {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let key = ClassKey { address: class, tgid: (*walk).tgid, execs: (*walk).execs };
        if let Some(known) = CLASSES_SEEN.get(&key) {
            return *known;
        }
        let owned = match is_type(walk, class) {
            true => origin(walk, class),
            // Most words that are no objects end here, and there are too many of them to remember.
            false => return owns::NOTHING,
        };
        if owned != owns::NOTHING && !announce(walk, class, owned) {
            return owns::NOTHING;
        }
        let _ = CLASSES_SEEN.insert(&key, &owned, 0);
        owned
    }
}

/// Its type is `type`, or a metaclass (`abc.ABCMeta` is one).
#[inline(always)]
unsafe fn is_type(walk: *const Walk, class: u64) -> bool {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let Some(meta) = peek::<u64>(class + 8) else { return false };
        if meta == (*walk).python.type_type {
            return true;
        }
        let o = &raw const (*walk).python.offsets;
        peek::<u64>(meta.wrapping_add(8)) == Some((*walk).python.type_type)
            && peek::<u64>(meta.wrapping_add(u64::from((*o).type_flags)))
                .is_some_and(|flags| flags & TYPE_SUBCLASS != 0)
    }
}

const fn eight(text: &[u8; 8]) -> u64 {
    u64::from_ne_bytes(*text)
}

/// Which owner a type is or is derived from, by name.
#[inline(always)]
unsafe fn origin(walk: *mut Walk, class: u64) -> u32 {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let o = &raw const (*walk).python.offsets;
        let text = (&raw mut (*walk).text).cast::<u64>();
        let mut class = class;
        for _ in 0..BASES {
            let Some(name) = peek::<u64>(class.wrapping_add(u64::from((*o).type_name))) else { return owns::NOTHING };
            // Names shorter than what is read may end at the end of a mapping: then this is none of ours.
            if copy(text.cast(), 11, name) && text.read_volatile() == eight(b"_io.File") {
                if text.add(1).read_volatile() << 40 == eight(b"\0\0\0\0\0IO\0") {
                    return owns::FILE;
                }
            } else if copy(text.cast(), 13, name) && text.read_volatile() == eight(b"select.e") {
                if text.add(1).read_volatile() << 24 == eight(b"\0\0\0poll\0") {
                    return owns::EPOLL;
                }
            } else if copy(text.cast(), 15, name)
                && text.read_volatile() == eight(b"_socket.")
                && text.add(1).read_volatile() << 8 == eight(b"\0socket\0")
            {
                return owns::SOCKET;
            }
            class = peek::<u64>(class.wrapping_add(u64::from((*o).type_base))).unwrap_or(0);
            if class == 0 {
                return owns::NOTHING;
            }
        }
        owns::NOTHING
    }
}

/// Tells user space of a type. `false`: it could not be told.
#[inline(always)]
unsafe fn announce(walk: *mut Walk, class: u64, owned: u32) -> bool {
    let mut told = false;
    // SAFETY: `walk` is this processor's.
    unsafe {
        let name = peek::<u64>(class.wrapping_add(u64::from((*walk).python.offsets.type_name))).unwrap_or(0);
        let who = Subject { tgid: (*walk).tgid, tid: (*walk).tid, table: 0 };
        emit::witness::<TypeDef>(|record| {
            emit::fill_header(&raw mut (*record).header, kind::TYPE, 0, who);
            (*record).class = class;
            (*record).owns = owned;
            let room = core::slice::from_raw_parts_mut((&raw mut (*record).name).cast::<u8>(), 64);
            let read = aya_ebpf::helpers::generated::bpf_probe_read_user_str(
                room.as_mut_ptr().cast(),
                64,
                name as *const c_void,
            );
            (*record).name_len = if read > 0 { read as u32 - 1 } else { 0 };
            told = true;
        });
    }
    told
}
