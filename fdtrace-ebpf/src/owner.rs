//! The objects that own descriptors: found in the registers and near the top of the stack of a thread that makes a call.
//!
//! A value there is a candidate if it points to something whose type owns descriptors; types are learned here, by their
//! names and those of their bases. Nothing is concluded: user space knows which object was bound to what.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use fdtrace_common::{
    wire::{Watch, shared, watch_key},
    witness::{Bind, CANDIDATES_MAX, CLOSEFD, Candidate, ClassKey, Holder, SlotKey, TypeDef, found, kind, owns},
};

use crate::{
    emit::{self, Subject},
    kernel::Files,
    maps::{CLASSES_SEEN, HELD, HOLDERS, SHARED, STACK_ROOM, WALK, WATCHED},
    walk::{SEARCH_REGISTERS, SEARCH_WORDS, WORDS, Walk, copy, user_word},
};

/// `Py_TPFLAGS_TYPE_SUBCLASS`: the type's instances are types.
const TYPE_SUBCLASS: u64 = 1 << 31;
/// Bases that are followed: `socket.socket`, and what a program derives from it.
const BASES: usize = 6;
/// How often the holder of a number is searched for.
const SEARCHES: u32 = 8;
/// Uses of a number that are told after its generation was closed behind its owner's back.
const STALE_USES: u32 = 64;
/// Above the stack pointer, what points there points into the stack.
const STACK_SPAN: u64 = 1 << 20;

/// Fills the stack record's candidates.
///
/// # Safety
/// `walk` is this processor's, with the interpreter, the registers and the stack words filled in.
#[inline(always)]
pub unsafe fn search(walk: *mut Walk) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*walk).candidates = 0;
        bpf_loop((SEARCH_REGISTERS + SEARCH_WORDS) as u32, search_step as *mut c_void, core::ptr::null_mut(), 0);
    }
}

/// One word.
unsafe extern "C" fn search_step(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return 1 };
    // SAFETY: this processor's rooms; all reads of user memory are checked by their helper.
    unsafe {
        if index >= (*walk).word_count {
            return 1;
        }
        let words = (&raw const (*walk).words).cast::<u64>();
        let object = words.add(index as usize & (WORDS - 1)).read_volatile();
        let sp = (*walk).sp;
        if object & 7 != 0 || !(1 << 16..1 << 47).contains(&object) || object.wrapping_sub(sp) < STACK_SPAN {
            return 0;
        }
        let mut seen = [0u64; 2];
        if !copy((&raw mut seen).cast(), 16, object + 8) {
            return 0;
        }
        let [class, fd] = seen;
        if class & 7 != 0 || !(1 << 16..1 << 47).contains(&class) {
            return 0;
        }
        let owned = classify(walk, class);
        if owned == owns::NOTHING {
            return 0;
        }
        let count = (*walk).candidates;
        if count >= CANDIDATES_MAX as u32 {
            return 1;
        }
        let candidates = (&raw mut (*room).stack.candidate).cast::<Candidate>();
        for i in 0..CANDIDATES_MAX {
            if (i as u32) < count && (*candidates.add(i)).object == object {
                return 0;
            }
        }
        // Read again: see `python::frame_step`.
        let index = (&raw const (*walk).candidates).read_volatile() & (CANDIDATES_MAX as u32 - 1);
        let out = candidates.add(index as usize);
        (*out).object = object;
        (*out).class = class;
        (*out).fd = fd as i32;
        (*out).behind = (fd >> 32) as u32;
        (*out).found = index.wrapping_add(found::STACK).wrapping_sub(SEARCH_REGISTERS as u32);
        (*out).owns = owned;
        (*walk).candidates = count + 1;
    }
    0
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
        let Some(meta) = user_word(class + 8) else { return false };
        if meta == (*walk).python.type_type {
            return true;
        }
        let o = &raw const (*walk).python.offsets;
        user_word(meta.wrapping_add(8)) == Some((*walk).python.type_type)
            && user_word(meta.wrapping_add(u64::from((*o).type_flags))).is_some_and(|flags| flags & TYPE_SUBCLASS != 0)
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
            let Some(name) = user_word(class.wrapping_add(u64::from((*o).type_name))) else { return owns::NOTHING };
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
            class = user_word(class.wrapping_add(u64::from((*o).type_base))).unwrap_or(0);
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
        let name = user_word(class.wrapping_add(u64::from((*walk).python.offsets.type_name))).unwrap_or(0);
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

/// Adds to the candidates the object that was last bound to the number that is about to go, as it is now, and forgets
/// the bond: the number is anybody's from here on.
///
/// # Safety
/// As [`search`], which has run.
#[inline(always)]
pub unsafe fn holder(walk: *mut Walk, fd: u32) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms.
    unsafe {
        let key = SlotKey { tgid: (*walk).tgid, execs: (*walk).execs, fd, reserved: 0 };
        let Some(known) = HOLDERS.get(&key) else { return };
        let Holder { object, class, owns, .. } = *known;
        let _ = HOLDERS.remove(&key);
        if object == 0 {
            return;
        }
        let mut seen = [0u64; 2];
        if !copy((&raw mut seen).cast(), 16, object.wrapping_add(8)) {
            seen = [0; 2];
        }
        if seen[0] == class && seen[1] as u32 == fd {
            // It does not know, so what it does with the number from now on is worth telling.
            let watch = Watch { left: STALE_USES, last: Watch::EVERY };
            let _ = WATCHED.insert(watch_key((*walk).tgid, fd), watch, 0);
            if let Some(numbers) = SHARED.get_ptr_mut(shared::WATCHED_NUMBERS) {
                *numbers |= 1 << (fd & 63);
            }
        } else {
            let _ = HELD.remove(&ClassKey { address: object, tgid: (*walk).tgid, execs: (*walk).execs });
        }
        let count = (*walk).candidates;
        if count >= CANDIDATES_MAX as u32 {
            // The last one makes room: this one matters more.
            (*walk).candidates = CANDIDATES_MAX as u32 - 1;
        }
        let count = (*walk).candidates;
        let index = (&raw const (*walk).candidates).read_volatile() & (CANDIDATES_MAX as u32 - 1);
        let out = (&raw mut (*room).stack.candidate).cast::<Candidate>().add(index as usize);
        (*out).object = object;
        (*out).class = seen[0];
        (*out).fd = seen[1] as i32;
        (*out).behind = (seen[1] >> 32) as u32;
        (*out).found = found::BOUND;
        (*out).owns = owns;
        (*walk).candidates = count + 1;
    }
}

/// An object whose field has become -1 holds nothing any more.
///
/// # Safety
/// As [`search`], which has run.
#[inline(always)]
pub unsafe fn let_go(walk: *mut Walk) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms.
    unsafe {
        let candidates = (&raw const (*room).stack.candidate).cast::<Candidate>();
        for i in 0..CANDIDATES_MAX {
            if i as u32 >= (*walk).candidates {
                break;
            }
            let candidate = candidates.add(i);
            if (*candidate).fd == -1 {
                let key = ClassKey { address: (*candidate).object, tgid: (*walk).tgid, execs: (*walk).execs };
                let _ = HELD.remove(&key);
            }
        }
    }
}

/// Is it worth searching for who holds this number? `always`: even if somebody is known to.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn wanted(walk: *const Walk, fd: u32, always: bool) -> bool {
    // SAFETY: by the caller's promise.
    let key = unsafe { SlotKey { tgid: (*walk).tgid, execs: (*walk).execs, fd, reserved: 0 } };
    match HOLDERS.get_ptr_mut(&key) {
        None => {
            let first = Holder { searches: 1, ..Holder { object: 0, class: 0, searches: 0, owns: 0 } };
            let _ = HOLDERS.insert(&key, &first, 0);
            true
        }
        // SAFETY: a live element of a hash map; only this process's threads write it, and a lost count does no harm.
        Some(known) => unsafe {
            (*known).searches = (*known).searches.wrapping_add(1);
            always || ((*known).object == 0 && (*known).searches <= SEARCHES)
        },
    }
}

/// A number was given out: nobody is known to hold it yet.
#[inline(always)]
pub fn forget(tgid: u32, execs: u32, fd: u32) {
    let _ = HOLDERS.remove(&SlotKey { tgid, execs, fd, reserved: 0 });
}

/// Tells user space of candidates that hold the number, each object once for each number.
///
/// # Safety
/// As [`search`], which has run.
#[inline(always)]
pub unsafe fn bind(walk: *mut Walk, fd: u32) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms.
    unsafe {
        let candidates = (&raw const (*room).stack.candidate).cast::<Candidate>();
        for i in 0..CANDIDATES_MAX {
            if i as u32 >= (*walk).candidates {
                break;
            }
            let candidate = candidates.add(i);
            let closes = (*candidate).owns != owns::FILE || (*candidate).behind & CLOSEFD != 0;
            if (*candidate).fd as u32 != fd || !closes {
                continue;
            }
            let (object, class, owned) = ((*candidate).object, (*candidate).class, (*candidate).owns);
            let key = ClassKey { address: object, tgid: (*walk).tgid, execs: (*walk).execs };
            if HELD.get(&key).is_some_and(|held| *held == fd) {
                continue;
            }
            let slot = SlotKey { tgid: (*walk).tgid, execs: (*walk).execs, fd, reserved: 0 };
            let mut other = 0;
            if let Some(known) = HOLDERS.get(slot)
                && known.object != object
            {
                let mut seen = [0u64; 2];
                let (before, its_class) = (known.object, known.class);
                if copy((&raw mut seen).cast(), 16, before.wrapping_add(8))
                    && seen[0] == its_class
                    && seen[1] as u32 == fd
                {
                    other = before;
                }
            }
            let files = Files::of_current();
            let who = Subject { tgid: (*walk).tgid, tid: (*walk).tid, table: files.files };
            let mut told = false;
            emit::witness::<Bind>(|record| {
                emit::fill_header(&raw mut (*record).header, kind::BIND, 0, who);
                (*record).object = object;
                (*record).class = class;
                (*record).file = files.file(u64::from(fd));
                (*record).fd = fd as i32;
                (*record).owns = owned;
                (*record).other = other;
                told = true;
            });
            if told {
                let _ = HELD.insert(&key, &fd, 0);
                let holder = Holder { object, class, searches: 0, owns: owned };
                let _ = HOLDERS.insert(&slot, &holder, 0);
            }
        }
    }
}
