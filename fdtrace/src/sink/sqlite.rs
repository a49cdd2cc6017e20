//! A SQLite database, with views for the usual questions.
//!
//! SQLite wants a path and makes files beside it, and fdtrace follows no path twice: the database is made in a folder
//! of its own, and copied to where it was asked for.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
};

use rusqlite::{Connection, params};

use super::{
    Sink,
    lifetime::Lifetime,
    run::{Loss, RunMeta, Summary},
};
use crate::{
    detect::finding::{Act, Finding, Frame, Name},
    escape::escape_terminal,
};

const SCHEMA: &str = include_str!("sqlite/schema.sql");

pub struct SqliteSink<W: Write> {
    out: W,
    folder: Folder,
    /// `None`: over.
    database: Option<Connection>,
    rows: u64,
}

/// Rows of one transaction.
const BATCH: u64 = 50_000;

/// A folder that nobody else can look into, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn make() -> io::Result<Self> {
        for attempt in 0..100 {
            let path = std::env::temp_dir().join(format!("fdtrace-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self(path)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be cleaned up stays in a folder for what is temporary.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl<W: Write> SqliteSink<W> {
    pub fn new(out: W) -> io::Result<Self> {
        let folder = Folder::make()?;
        let database = Connection::open(folder.0.join("fdtrace.sqlite")).map_err(failed)?;
        // Nobody reads it before it is whole, so there is nothing to protect.
        database.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;").map_err(failed)?;
        database.execute_batch(SCHEMA).map_err(failed)?;
        database.execute_batch("BEGIN").map_err(failed)?;
        Ok(Self { out, folder, database: Some(database), rows: 0 })
    }

    fn insert(&mut self, sql: &str, values: impl rusqlite::Params) -> io::Result<()> {
        let Some(database) = &self.database else { return Ok(()) };
        database.prepare_cached(sql).and_then(|mut insert| insert.execute(values)).map_err(failed)?;
        self.rows += 1;
        if self.rows.is_multiple_of(BATCH) {
            database.execute_batch("COMMIT; BEGIN").map_err(failed)?;
        }
        Ok(())
    }
}

fn failed(error: rusqlite::Error) -> io::Error {
    io::Error::other(error)
}

/// SQLite's integers are signed; addresses and times of ours fit, and what does not wraps.
fn signed(value: u64) -> i64 {
    value.cast_signed()
}

fn text(name: &Name) -> String {
    escape_terminal(&name.0)
}

/// A stack on one line for each frame.
fn stack(frames: &[Frame]) -> Option<String> {
    let line = |frame: &Frame| {
        let place = frame.file.as_ref().or(frame.module.as_ref()).map_or_else(String::new, text);
        let number = frame.line.map_or_else(String::new, |line| format!(":{line}"));
        format!("{} ({place}{number})", text(&frame.function))
    };
    (!frames.is_empty()).then(|| frames.iter().map(line).collect::<Vec<_>>().join("\n"))
}

fn owner(act: &Act) -> Option<String> {
    act.who.owner.as_ref().map(|owner| format!("{} {:#x}", owner.kind, owner.address))
}

impl<W: Write> Sink for SqliteSink<W> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        let started = meta.wall(meta.started_boot).map(|time| format!("{time:.9}"));
        let targets: Vec<String> =
            meta.targets.iter().map(|target| format!("{} (pid {})", text(&target.name), target.pid)).collect();
        self.insert(
            "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                meta.version,
                meta.schema,
                meta.kernel,
                signed(meta.started_wall),
                signed(meta.started_boot),
                started,
                targets.join(", ")
            ],
        )
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.insert(
            "INSERT INTO finding (rule, confidence, severity, incident, pid, process, fd, generation, time_ns, message, \
             complete, advice) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                finding.rule,
                finding.confidence.name(),
                finding.severity.name(),
                signed(finding.incident),
                finding.pid,
                text(&finding.process),
                finding.fd,
                finding.generation,
                signed(finding.time),
                finding.message,
                finding.complete,
                finding.advice
            ],
        )?;
        let id = self.database.as_ref().map_or(0, Connection::last_insert_rowid);
        for (index, act) in finding.timeline.iter().enumerate() {
            self.insert(
                "INSERT INTO act VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    id,
                    index as i64,
                    signed(act.time),
                    act.enter_time.map(signed),
                    act.pid,
                    act.tid,
                    text(&act.process),
                    act.fd,
                    act.generation,
                    act.verb.name(),
                    act.call,
                    act.error,
                    text(&act.object),
                    act.role.map(|role| role.name()),
                    owner(act),
                    stack(&act.who.python),
                    stack(&act.who.native)
                ],
            )?;
        }
        Ok(())
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        for (class, count) in &loss.by_class {
            self.insert(
                "INSERT INTO loss VALUES (?, ?, ?, ?)",
                params![signed(loss.since), signed(loss.time), class, signed(*count)],
            )?;
        }
        Ok(())
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        let Lifetime { opened, closed, .. } = lifetime;
        let closed = closed.as_ref();
        self.insert(
            "INSERT INTO lifetime VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                lifetime.pid,
                text(&lifetime.process),
                lifetime.table,
                lifetime.fd,
                lifetime.generation,
                signed(lifetime.description),
                lifetime.kind,
                text(&lifetime.object),
                lifetime.cloexec,
                signed(opened.time),
                opened.verb.name(),
                opened.call,
                opened.tid,
                owner(opened),
                stack(&opened.who.python),
                stack(&opened.who.native),
                closed.map(|act| signed(act.time)),
                closed.map(|act| act.verb.name()),
                closed.map(|act| act.call),
                closed.map(|act| act.tid),
                closed.and_then(owner),
                closed.and_then(|act| stack(&act.who.python)),
                closed.and_then(|act| stack(&act.who.native)),
                signed(lifetime.alike().count),
                signed(lifetime.alike().open_ns),
                signed(lifetime.alike().longest_ns)
            ],
        )
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        self.insert(
            "INSERT INTO summary VALUES (?, ?, ?, ?, ?)",
            params![
                signed(summary.events),
                signed(summary.lost),
                signed(summary.uncertain_ns),
                signed(summary.findings.total),
                signed(summary.duration_ns)
            ],
        )?;
        if let Some(database) = self.database.take() {
            database
                .execute_batch("COMMIT; CREATE INDEX lifetime_slot ON lifetime (pid, fd, generation)")
                .map_err(failed)?;
            drop(database);
        }
        let mut made = File::open(self.folder.0.join("fdtrace.sqlite"))?;
        io::copy(&mut made, &mut self.out)?;
        self.out.flush()
    }
}
