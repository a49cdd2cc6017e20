//! Compares a model of descriptor tables with the kernel's.
//!
//! Knows no tracer: whoever has a model writes it down as [`ModelTable`]s. What a model does not claim (`None`) is not
//! compared, but counted, so that a test can demand that nothing was left out.

use std::collections::HashMap;
use std::fmt;

use crate::kind::normalise;
use crate::truth::{self, TruthFd};

/// A descriptor as the model has it.
#[derive(Clone, Debug, Default)]
pub struct ModelFd {
    pub fd: i32,
    pub ino: Option<u64>,
    /// As the kernel packs it: `major << 20 | minor`.
    pub dev: Option<u32>,
    pub cloexec: Option<bool>,
    /// The model's own name of the description: equal for exactly those slots that share one.
    pub description: Option<u64>,
    /// Any word that [`normalise`] knows, or the kernel's own.
    pub kind: Option<String>,
    /// Registrations, when it is an epoll and the model follows them.
    pub interest: Option<Vec<ModelInterest>>,
}

/// A registration in an epoll as the model has it.
#[derive(Clone, Debug, Default)]
pub struct ModelInterest {
    pub fd: i32,
    pub ino: Option<u64>,
    pub data: Option<u64>,
    /// The description it is about, named as in [`ModelFd::description`].
    pub description: Option<u64>,
}

/// The table of one task as the model has it.
#[derive(Clone, Debug, Default)]
pub struct ModelTable {
    /// The task: a process, or a thread, when threads are compared one by one.
    pub pid: u32,
    /// The model's own name of the table: equal for exactly those tasks that share one.
    pub table: u64,
    pub fds: Vec<ModelFd>,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// The kernel would not say.
    Unreadable,
    /// Which tasks share a table.
    Table,
    /// Open in one, closed in the other.
    Open,
    Kind,
    Inode,
    Device,
    Cloexec,
    /// Which slots share a description.
    Description,
    /// What an epoll watches.
    Interest,
}

/// One difference.
#[derive(Clone, Debug)]
pub struct Difference {
    pub pid: u32,
    pub fd: Option<i32>,
    pub aspect: Aspect,
    /// The number that is watched, of a difference in what an epoll watches.
    pub registered: Option<i32>,
    pub model: String,
    pub kernel: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, fd, aspect, model, kernel, .. } = self;
        write!(f, "pid {pid}")?;
        if let Some(fd) = fd {
            write!(f, " fd {fd}")?;
        }
        write!(f, ": {}: model says {model}, kernel says {kernel}", format!("{aspect:?}").to_lowercase())
    }
}

/// Outcome of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    pub differences: Vec<Difference>,
    /// Slots that both sides hold.
    pub slots: usize,
    /// Statements that the model did not make, by aspect.
    pub silent: HashMap<Aspect, usize>,
}

/// Differences between a model and the kernel as it is now. All tasks have to be parked.
pub fn compare(model: &[ModelTable]) -> Vec<Difference> {
    examine(model).differences
}

/// A slot that both sides hold.
struct Pair<'a> {
    pid: u32,
    model: &'a ModelFd,
    kernel: &'a TruthFd,
}

/// The same, with counts.
pub fn examine(model: &[ModelTable]) -> Comparison {
    let mut result = Comparison::default();
    let ids: Vec<u32> = model.iter().map(|table| table.pid).collect();
    let classes = match truth::table_classes(&ids) {
        Ok(classes) => classes,
        Err(error) => {
            let id = ids.iter().find(|id| truth::same_table(**id, **id).is_err()).copied().unwrap_or_default();
            result.note(id, None, Aspect::Unreadable, "a task", format!("{error:#}"));
            return result;
        }
    };
    let claims = model.iter().zip(&classes).map(|(table, class)| Claim {
        slot: (table.pid, None),
        model: table.table,
        kernel: *class,
    });
    result.same(Aspect::Table, claims);

    // A table is read once, however many tasks share it; what the model says of each of them is compared with it.
    let mut tables: HashMap<usize, Vec<TruthFd>> = HashMap::new();
    for (id, class) in ids.iter().zip(&classes) {
        if tables.contains_key(class) {
            continue;
        }
        match truth::table_of(*id) {
            Ok(table) => _ = tables.insert(*class, table),
            Err(error) => result.note(*id, None, Aspect::Unreadable, "a task", format!("{error:#}")),
        }
    }
    let mut pairs = Vec::new();
    for (table, class) in model.iter().zip(&classes) {
        if let Some(kernel) = tables.get(class) {
            result.numbers(table, kernel, &mut pairs);
        }
    }
    for pair in &pairs {
        result.attributes(pair);
    }
    result.slots = pairs.len();
    result.descriptions(&pairs);
    for pair in &pairs {
        result.interest(pair, &pairs);
    }
    result
}

/// One item's class, by model and by kernel.
struct Claim {
    slot: (u32, Option<i32>),
    model: u64,
    kernel: usize,
}

impl Comparison {
    fn note(&mut self, pid: u32, fd: Option<i32>, aspect: Aspect, model: impl ToString, kernel: impl ToString) {
        let (model, kernel) = (model.to_string(), kernel.to_string());
        self.differences.push(Difference { pid, fd, aspect, registered: None, model, kernel });
    }

    fn note_interest(&mut self, pair: &Pair<'_>, registered: i32, model: impl ToString, kernel: impl ToString) {
        let (pid, fd, aspect) = (pair.pid, Some(pair.model.fd), Aspect::Interest);
        let (registered, model, kernel) = (Some(registered), model.to_string(), kernel.to_string());
        self.differences.push(Difference { pid, fd, aspect, registered, model, kernel });
    }

    fn silence(&mut self, aspect: Aspect) {
        *self.silent.entry(aspect).or_default() += 1;
    }

    fn numbers<'a>(&mut self, table: &'a ModelTable, kernel: &'a [TruthFd], pairs: &mut Vec<Pair<'a>>) {
        let held: HashMap<i32, &TruthFd> = kernel.iter().map(|held| (held.fd, held)).collect();
        let mut claimed = HashMap::new();
        for model in &table.fds {
            if claimed.insert(model.fd, ()).is_some() {
                self.note(table.pid, Some(model.fd), Aspect::Open, "open twice", "one slot");
            }
            match held.get(&model.fd) {
                Some(kernel) => pairs.push(Pair { pid: table.pid, model, kernel }),
                None => {
                    let kind = model.kind.as_deref().unwrap_or("something");
                    self.note(table.pid, Some(model.fd), Aspect::Open, format!("open ({kind})"), "closed");
                }
            }
        }
        for held in kernel.iter().filter(|held| !claimed.contains_key(&held.fd)) {
            let what = format!("open ({}, {})", held.kind, held.link);
            self.note(table.pid, Some(held.fd), Aspect::Open, "closed", what);
        }
    }

    fn attributes(&mut self, pair: &Pair<'_>) {
        let Pair { model, kernel, .. } = pair;
        let kind = model.kind.as_deref().map(normalise);
        self.attribute(pair, Aspect::Kind, kind, normalise(&kernel.kind));
        self.attribute(pair, Aspect::Inode, model.ino, kernel.ino);
        self.attribute(pair, Aspect::Device, model.dev.map(Device), Device(kernel.dev));
        match model.cloexec {
            Some(false) if kernel.cloexec && !truth::cloexec_is_certain(pair.pid, model.fd).unwrap_or(true) => {
                self.silence(Aspect::Cloexec);
            }
            cloexec => self.attribute(pair, Aspect::Cloexec, cloexec, kernel.cloexec),
        }
    }

    fn attribute<T: PartialEq + fmt::Display>(&mut self, pair: &Pair<'_>, aspect: Aspect, model: Option<T>, kernel: T) {
        match model {
            None => self.silence(aspect),
            Some(model) if model == kernel => {}
            Some(model) => {
                let kernel = format!("{kernel} ({}, {})", pair.kernel.kind, pair.kernel.link);
                self.note(pair.pid, Some(pair.model.fd), aspect, model, kernel);
            }
        }
    }

    fn descriptions(&mut self, pairs: &[Pair<'_>]) {
        let mut claims = Vec::new();
        let mut buckets: HashMap<(u64, u32), Vec<&Pair<'_>>> = HashMap::new();
        for pair in pairs {
            match pair.model.description {
                Some(_) => buckets.entry((pair.kernel.ino, pair.kernel.dev)).or_default().push(pair),
                None => self.silence(Aspect::Description),
            }
        }
        // One description has one inode: only slots of one inode need to be asked about.
        let mut base = 0;
        for bucket in buckets.values() {
            let slots: Vec<_> = bucket.iter().map(|pair| (pair.pid, pair.kernel.fd)).collect();
            let classes = match truth::sharing_classes(&slots) {
                Ok(classes) => classes,
                Err(error) => {
                    let (pid, fd) = slots.first().copied().unwrap_or_default();
                    self.note(pid, Some(fd), Aspect::Unreadable, "a description", format!("{error:#}"));
                    continue;
                }
            };
            claims.extend(bucket.iter().zip(classes).map(|(pair, class)| Claim {
                slot: (pair.pid, Some(pair.kernel.fd)),
                model: pair.model.description.unwrap_or_default(),
                kernel: base + class,
            }));
            base += bucket.len();
        }
        claims.sort_by_key(|claim| claim.slot);
        self.same(Aspect::Description, claims);
    }

    /// Notes where two divisions into classes differ, each with a witness.
    fn same(&mut self, aspect: Aspect, claims: impl IntoIterator<Item = Claim>) {
        let mut by_model: HashMap<u64, (usize, (u32, Option<i32>))> = HashMap::new();
        let mut by_kernel: HashMap<usize, (u64, (u32, Option<i32>))> = HashMap::new();
        for Claim { slot, model, kernel } in claims {
            let (pid, fd) = slot;
            let (known, witness) = *by_model.entry(model).or_insert((kernel, slot));
            if known != kernel {
                self.note(pid, fd, aspect, format!("the same as {}", named(witness)), "another");
            }
            let (known, witness) = *by_kernel.entry(kernel).or_insert((model, slot));
            if known != model {
                let model = format!("another (#{model}, not #{known})");
                self.note(pid, fd, aspect, model, format!("the same as {}", named(witness)));
            }
        }
    }

    fn interest(&mut self, pair: &Pair<'_>, pairs: &[Pair<'_>]) {
        let Some(model) = &pair.model.interest else {
            if pair.kernel.kind == "eventpoll" {
                self.silence(Aspect::Interest);
            }
            return;
        };
        let mut left: Vec<_> = pair.kernel.interest.iter().collect();
        for entry in model {
            let fits = |known: &&&truth::Interest| {
                known.fd == entry.fd
                    && entry.ino.is_none_or(|ino| ino == known.ino)
                    && entry.data.is_none_or(|data| data == known.data)
            };
            let Some(found) = left.iter().find(fits).copied() else {
                self.note_interest(pair, entry.fd, format!("{entry:?}"), "no such registration");
                continue;
            };
            left.retain(|known| !std::ptr::eq(*known, found));
            self.target(pair, entry, pairs);
        }
        for entry in left {
            self.note_interest(pair, entry.fd, "no such registration", format!("{entry:?}"));
        }
    }

    /// Whether a registration is about the description that the model names, as far as a slot still holds it.
    fn target(&mut self, pair: &Pair<'_>, entry: &ModelInterest, pairs: &[Pair<'_>]) {
        let Some(description) = entry.description else {
            return self.silence(Aspect::Interest);
        };
        let Some(holder) = pairs.iter().find(|other| other.model.description == Some(description)) else { return };
        let alike = pair.kernel.interest.iter().filter(|known| known.fd == entry.fd).count() as u32;
        let (epoll, slot) = ((pair.pid, pair.kernel.fd), (holder.pid, holder.kernel.fd));
        if !(0..alike).any(|offset| truth::watches(epoll, entry.fd, offset, slot).unwrap_or(false)) {
            let model = format!("{} watches {}", entry.fd, named((slot.0, Some(slot.1))));
            self.note_interest(pair, entry.fd, model, "another description");
        }
    }
}

fn named((pid, fd): (u32, Option<i32>)) -> String {
    fd.map_or_else(|| format!("pid {pid}"), |fd| format!("pid {pid} fd {fd}"))
}

#[derive(PartialEq)]
struct Device(u32);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
}
