use super::*;

/// Writes BTF by hand.
#[derive(Default)]
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    next_id: u32,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { strings: vec![0], next_id: 1, ..Self::default() }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn push(&mut self, name: &str, kind: u32, info: u32, size_or_type: u32, extra: &[u32]) -> u32 {
        let name = self.name(name);
        for word in [name, kind << 24 | info, size_or_type].iter().chain(extra) {
            self.types.extend(word.to_ne_bytes());
        }
        self.next_id += 1;
        self.next_id - 1
    }

    pub(crate) fn int(&mut self, size: u32, bits: u32) -> u32 {
        self.push("int", INT, 0, size, &[bits])
    }

    pub(crate) fn modifier(&mut self, kind: u32, target: u32) -> u32 {
        let name = if kind == TYPEDEF { "alias_t" } else { "" };
        self.push(name, kind, 0, target, &[])
    }

    /// `members`: name, type, offset in bits, and, where the flag is wanted, width of the bit field.
    pub(crate) fn aggregate(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32, Option<u32>)]) -> u32 {
        let flag = u32::from(members.iter().any(|m| m.3.is_some())) << 31;
        let mut extra = Vec::new();
        for &(name, type_id, bits, width) in members {
            extra.extend([self.name(name), type_id, bits | width.unwrap_or(0) << 24]);
        }
        let name_at = self.name(name);
        for word in [name_at, kind << 24 | flag | members.len() as u32, 0].iter().chain(&extra) {
            self.types.extend(word.to_ne_bytes());
        }
        self.next_id += 1;
        self.next_id - 1
    }

    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC.to_ne_bytes());
        out.extend([1, 0]);
        let types = self.types.len() as u32;
        let strings = self.strings.len() as u32;
        for word in [HEADER as u32, 0, types, types, strings] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(&self.types);
        out.extend(&self.strings);
        out
    }
}

fn sample() -> Vec<u8> {
    let mut b = Builder::new();
    let long = b.int(8, 64);
    let narrow = b.int(4, 3);
    let alias = b.modifier(TYPEDEF, long);
    let constant = b.modifier(10, alias);
    let inner = b.aggregate(STRUCT, "", &[("pad", long, 0, None), ("deep", constant, 64, None)]);
    let nameless = b.aggregate(UNION, "", &[("first", long, 0, None), ("", inner, 0, None)]);
    let common = b.aggregate(STRUCT, "common", &[("family", long, 16, None)]);
    let common_t = b.modifier(TYPEDEF, common);
    let common_const = b.modifier(10, common_t);
    b.aggregate(
        STRUCT,
        "thing",
        &[
            ("zero", long, 0, None),
            ("", nameless, 128, None),
            ("__common", common_const, 256, None),
            ("old_bits", narrow, 320, None),
            ("odd", long, 321, None),
        ],
    );
    b.aggregate(
        STRUCT,
        "flagged",
        &[("plain", long, 64, Some(0)), ("bits", long, 128, Some(3)), ("", nameless, 192, Some(0))],
    );
    b.push("fd_install", FUNC, 0, 1, &[]);
    b.finish()
}

fn missing(structure: &str, member: &str, why: Why) -> Result<u32, MissingMember> {
    Err(MissingMember { structure: structure.to_owned(), member: member.to_owned(), why })
}

#[test]
fn finds_members_through_nameless_ones_and_qualifiers() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let cases = [
        ("thing", "zero", 0),
        ("thing", "first", 16),
        ("thing", "deep", 24),
        ("thing", "__common", 32),
        ("thing", "__common.family", 34),
        ("flagged", "plain", 8),
        ("flagged", "deep", 32),
    ];
    for (structure, member, offset) in cases {
        assert_eq!(btf.offset(structure, member), Ok(offset), "{member}");
    }
}

#[test]
fn names_what_is_missing() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let cases = [
        ("thin", "zero", Why::NoStructure),
        ("thing", "zer", Why::NoMember),
        ("thing", "zeroo", Why::NoMember),
        ("thing", "", Why::NoMember),
        ("thing", "zero.more", Why::NoMember),
        ("thing", "__common.deep", Why::NoMember),
        ("thing", "old_bits", Why::Bitfield),
        ("thing", "odd", Why::Bitfield),
        ("flagged", "bits", Why::Bitfield),
    ];
    for (structure, member, why) in cases {
        assert_eq!(btf.offset(structure, member), missing(structure, member, why));
    }
    let error = btf.offset("thing", "fdt").unwrap_err();
    assert_eq!(error.to_string(), "kernel BTF has no `thing.fdt`");
}

#[test]
fn finds_types_by_kind_and_name() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.find(Kind::Typedef, "alias_t"), Some(3));
    assert_eq!(btf.find(Kind::Struct, "common"), Some(7));
    assert_eq!(btf.find(Kind::Func, "fd_install"), Some(12));
    assert_eq!(btf.find(Kind::Func, "common"), None);
    assert_eq!(btf.len(), 12);
}

#[test]
fn a_second_structure_of_the_same_name_is_asked_too() {
    let mut b = Builder::new();
    let long = b.int(8, 64);
    b.aggregate(STRUCT, "twin", &[("a", long, 0, None)]);
    b.aggregate(STRUCT, "twin", &[("b", long, 64, None)]);
    let bytes = b.finish();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.offset("twin", "b"), Ok(8));
    assert_eq!(btf.offset("twin", "c"), missing("twin", "c", Why::NoMember));
}

#[test]
fn circles_end() {
    let mut b = Builder::new();
    // Ids 1 and 2 are each other's target; 3 contains itself, many times over.
    b.modifier(TYPEDEF, 2);
    b.modifier(10, 1);
    b.aggregate(STRUCT, "round", &vec![("", 3, 0, None); 500]);
    b.aggregate(STRUCT, "user", &[("m", 1, 0, None)]);
    let bytes = b.finish();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.offset("round", "x"), missing("round", "x", Why::NoMember));
    assert_eq!(btf.offset("user", "m.x"), missing("user", "m.x", Why::NoMember));
}

#[test]
fn every_truncation_and_flip_is_survived() {
    let bytes = sample();
    let ask = |bytes: &[u8]| {
        if let Ok(btf) = Btf::parse(bytes) {
            for member in ["zero", "deep", "__common.family", "bits", "nothing"] {
                let _ = btf.offset("thing", member);
                let _ = btf.offset("flagged", member);
            }
            let _ = btf.find(Kind::Func, "fd_install");
        }
    };
    for length in 0..bytes.len() {
        ask(&bytes[..length]);
    }
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut flipped = bytes.clone();
            flipped[at] = value;
            ask(&flipped);
        }
    }
    // A fixed xorshift generator: the failing case can be run again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let mut noisy = bytes.clone();
        for _ in 0..1 + random() % 8 {
            let at = random() as usize % noisy.len();
            noisy[at] = random() as u8;
        }
        ask(&noisy);
    }
}

#[test]
fn foreign_bytes_are_named() {
    let bytes = sample();
    let why = |bytes: &[u8]| Btf::parse(bytes).err().map(|error| error.to_string());
    assert!(why(b"").unwrap().contains("shorter"));
    let mut swapped = bytes.clone();
    swapped.swap(0, 1);
    assert!(why(&swapped).unwrap().contains("byte order"));
    let mut strange = bytes.clone();
    strange[HEADER + 7] = 0x1f;
    assert!(why(&strange).unwrap().contains("unknown kind of type 31"));
}
