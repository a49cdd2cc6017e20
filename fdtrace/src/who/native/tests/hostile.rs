//! Files that lie: nothing may panic, hang or take memory without bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::debug::DebugInfo;
use super::super::elf::{Elf, Source};
use super::super::object::Object;
use super::super::rule::{self, Context, Registers};
use super::super::symtab::SymbolTable;

/// xorshift64*, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Does with a file all that is ever done with it.
fn use_all(bytes: Vec<u8>, random: &mut Random, debug: bool) {
    let Ok(object) = Object::new(Source::Memory(Arc::from(bytes)), b"/x".to_vec(), 0) else {
        return;
    };
    let mut context = Context::new();
    let table = SymbolTable::load(&object);
    let info = debug.then(|| DebugInfo::load(&object.elf, &object.source).ok().flatten()).flatten();
    for _ in 0..40 {
        let text = object.elf.loads().map(|segment| (segment.vaddr, segment.memsz)).nth(random.below(6));
        let (start, size) = text.unwrap_or((0, 1 << 20));
        let address = start.wrapping_add(random.next() % size.max(1));
        let _ = rule::rule_at(&object, address, &mut context);
        let _ = rule::is_continuation(&object, address, &mut context);
        let registers = Registers { ip: address, sp: random.next(), bp: random.next() >> random.below(64), lr: 0 };
        let _ = rule::compute(&object, address, &registers, &mut context, &mut |address| {
            (address & 1 == 0).then_some(address.rotate_left(7))
        });
        let _ = table.find(&object, address);
        if let Some(info) = &info {
            let _ = info.places(address);
        }
    }
}

/// A small program with everything in it.
fn victim() -> Option<Vec<u8>> {
    use super::tracee::{build, have, scratch};
    if !have(&["gcc"]) {
        return None;
    }
    let directory = scratch("hostile");
    let (source, program) = (directory.join("victim.c"), directory.join("victim"));
    let text = "#include <stdlib.h>\n#include <string.h>\nstatic int in(int a) { return abs(a) + 1; }\nint f(int n) { _Alignas(64) char c[n + 1]; memset(c, n, n); return in(c[n / 2]) + n; }\nint main(int n, char **v) { return f(n); }\n";
    std::fs::write(&source, text).unwrap();
    build("gcc", &["-O1", "-g", "-o", program.to_str().unwrap(), source.to_str().unwrap()]);
    Some(std::fs::read(program).unwrap())
}

#[test]
fn mutated_files() {
    let Some(original) = victim() else { return };
    let elf = Elf::parse(&Source::Memory(Arc::from(original.as_slice()))).unwrap();
    let rounds = std::env::var("FDTRACE_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(400);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let mut bytes = original.clone();
        // One part of the file at a time: else the headers shield the rest.
        let (start, size) = match round % 8 {
            0 => (0, 64),
            1 => (64, 56 * elf.segments.len()),
            2 => (bytes.len() - 64 * elf.sections.len(), 64 * elf.sections.len()),
            3 | 4 => part(&elf, b".eh_frame"),
            5 => part(&elf, b".eh_frame_hdr"),
            6 => part(&elf, [&b".symtab"[..], b".strtab", b".dynsym"][random.below(3)]),
            _ => {
                part(&elf, [&b".debug_info"[..], b".debug_abbrev", b".debug_line", b".debug_aranges"][random.below(4)])
            }
        };
        for _ in 0..1 + random.below(24) {
            let at = start + random.below(size);
            bytes[at] = match random.below(4) {
                0 => 0xff,
                1 => 0,
                2 => bytes[at] ^ (1 << random.below(8)),
                _ => random.next() as u8,
            };
        }
        if random.below(16) == 0 {
            bytes.truncate(random.below(original.len()));
        }
        let started = Instant::now();
        use_all(bytes, &mut random, true);
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

fn part(elf: &Elf, name: &[u8]) -> (usize, usize) {
    let section = elf.section(name).unwrap();
    (section.offset as usize, section.size as usize)
}

/// An unwind table whose expression never ends, and one that builds ever more state.
#[test]
fn endless_tables() {
    let Some(original) = victim() else { return };
    let elf = Elf::parse(&Source::Memory(Arc::from(original.as_slice()))).unwrap();
    let (start, size) = part(&elf, b".eh_frame");
    // `DW_CFA_def_cfa_expression` of three bytes: `DW_OP_skip` to itself. And `DW_CFA_remember_state` without end.
    for pattern in [&[0x0f, 3, 0x2f, 0xfd, 0xff][..], &[0x0a]] {
        let mut bytes = original.clone();
        // Behind each entry's header, which is kept.
        let mut at = start;
        while at + 24 < start + size {
            let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            if len == 0 {
                break;
            }
            let id = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
            if id != 0 {
                for (byte, with) in bytes[at + 17..at + 4 + len].iter_mut().zip(pattern.iter().cycle()) {
                    *byte = *with;
                }
            }
            at += 4 + len;
        }
        let started = Instant::now();
        let object = Object::new(Source::Memory(Arc::from(bytes)), b"/x".to_vec(), 0).unwrap();
        let (text, size) = part(&elf, b".text");
        let mut context = Context::new();
        let mut covered = 0;
        for address in text..text + size {
            let registers = Registers { ip: address as u64, sp: 0x1000, bp: 0x2000, lr: 0 };
            let rule = rule::rule_at(&object, address as u64, &mut context);
            covered += u32::from(matches!(rule, rule::Rule::Computed { .. } | rule::Rule::Broken));
            assert_eq!(rule::compute(&object, address as u64, &registers, &mut context, &mut Some), None);
        }
        assert!(covered > 0);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
