//! Apache Parquet: one table a file, for engines that read many files as one table.
//!
//! Types are those that Spark, DuckDB and ClickHouse all read as what they are: signed integers of 32 and 64 bits, since
//! an unsigned one of 64 becomes a decimal in Spark; moments in microseconds, since Spark refuses nanoseconds, with the
//! nanoseconds of `CLOCK_BOOTTIME` beside them; text in UTF-8, names escaped as everywhere. A file has no column for what
//! the folders of a partitioned table are named after, so it can be laid into `date=…/host=…` as it is.
//!
//! Rows are collected by column until there are enough for a row group; that is all the memory it takes.

use std::{
    io::{self, Write},
    sync::Arc,
};

use parquet::{
    basic::{Compression, Type as Physical, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{
        properties::{WriterProperties, WriterVersion},
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::parser::parse_message_type,
};

use super::{
    Sink,
    lifetime::Lifetime,
    run::{Loss, RunMeta, Summary},
};
use crate::{
    detect::finding::{Act, Finding, Frame, Name},
    escape::escape_terminal,
    plan::Table,
};

/// One row for each generation of each descriptor number, or for as many as are `alike`; `open_ns` is how long they were
/// open, together. `closed*` is null for what was open at the end.
const LIFETIMES: &str = "message lifetime {
    required int32 pid; required binary process (UTF8); required int64 table_id; required int32 fd;
    required int64 generation; required int64 description; required binary kind (UTF8); required binary object (UTF8);
    required boolean cloexec;
    optional int64 opened (TIMESTAMP(MICROS,true)); required int64 opened_ns; required binary opened_how (UTF8);
    required binary opened_call (UTF8); required int32 opened_tid; optional binary opened_owner (UTF8);
    optional binary opened_task (UTF8); optional binary opened_stack (UTF8);
    optional int64 closed (TIMESTAMP(MICROS,true)); optional int64 closed_ns; optional binary closed_how (UTF8);
    optional binary closed_call (UTF8); optional int32 closed_tid; optional binary closed_owner (UTF8);
    optional binary closed_task (UTF8); optional binary closed_stack (UTF8);
    required int64 alike; required int64 open_ns;
}";

const FINDINGS: &str = "message finding {
    required binary rule (UTF8); required binary confidence (UTF8); required binary severity (UTF8);
    required int64 incident; required int32 pid; required binary process (UTF8); required int32 fd;
    optional int64 generation; optional int64 time (TIMESTAMP(MICROS,true)); required int64 time_ns;
    required binary message (UTF8); required boolean complete; required binary advice (UTF8);
    optional int32 root_cause_tid; optional binary root_cause_call (UTF8); optional binary root_cause_owner (UTF8);
    optional binary root_cause_task (UTF8); optional binary root_cause_stack (UTF8);
    optional int32 culprit_tid; optional binary culprit_call (UTF8); optional binary culprit_owner (UTF8);
    optional binary culprit_task (UTF8); optional binary culprit_stack (UTF8);
    optional int32 victim_tid; optional binary victim_call (UTF8); optional binary victim_owner (UTF8);
    optional binary victim_task (UTF8); optional binary victim_stack (UTF8);
}";

/// Rows of a row group.
const GROUP: usize = 1 << 16;

pub struct ParquetSink<W: Write + Send> {
    /// `None`: over.
    writer: Option<SerializedFileWriter<W>>,
    table: Table,
    columns: Vec<Column>,
    rows: usize,
    meta: Option<RunMeta>,
}

/// What a cell holds; the column says how it is stored.
enum Cell {
    Nothing,
    Number(i64),
    Text(String),
    Is(bool),
}

struct Column {
    values: Values,
    /// Of a column that may be null: 1 where it is not.
    levels: Option<Vec<i16>>,
}

enum Values {
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Text(Vec<ByteArray>),
    Bool(Vec<bool>),
}

impl Column {
    fn push(&mut self, cell: Cell) -> io::Result<()> {
        if let Some(levels) = &mut self.levels {
            levels.push(i16::from(!matches!(cell, Cell::Nothing)));
        }
        match (&mut self.values, cell) {
            (Values::Int32(values), Cell::Number(number)) => values.push(i32::try_from(number).unwrap_or(i32::MAX)),
            (Values::Int64(values), Cell::Number(number)) => values.push(number),
            (Values::Text(values), Cell::Text(text)) => values.push(ByteArray::from(text.into_bytes())),
            (Values::Bool(values), Cell::Is(is)) => values.push(is),
            (_, Cell::Nothing) if self.levels.is_some() => {}
            _ => return Err(io::Error::other("a cell does not fit its column")),
        }
        Ok(())
    }

    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = self.levels.as_deref();
        match &mut self.values {
            Values::Int32(values) => {
                writer.typed::<Int32Type>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Int64(values) => {
                writer.typed::<Int64Type>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Text(values) => {
                writer.typed::<ByteArrayType>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Bool(values) => {
                writer.typed::<BoolType>().write_batch(values, levels, None)?;
                values.clear();
            }
        }
        if let Some(levels) = &mut self.levels {
            levels.clear();
        }
        Ok(())
    }
}

impl<W: Write + Send> ParquetSink<W> {
    pub fn new(out: W, table: Table) -> io::Result<Self> {
        let message = match table {
            Table::Lifetimes => LIFETIMES,
            Table::Findings => FINDINGS,
        };
        let schema = parse_message_type(message).map_err(failed)?;
        let columns = schema.get_fields().iter().map(|field| {
            let values = match field.get_physical_type() {
                Physical::INT32 => Values::Int32(Vec::new()),
                Physical::INT64 => Values::Int64(Vec::new()),
                Physical::BOOLEAN => Values::Bool(Vec::new()),
                _ => Values::Text(Vec::new()),
            };
            Column { values, levels: field.is_optional().then(Vec::new) }
        });
        let columns = columns.collect();
        let properties = WriterProperties::builder()
            // What every reader knows.
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("fdtrace ", env!("CARGO_PKG_VERSION")).to_owned());
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties.build())).map_err(failed)?;
        Ok(Self { writer: Some(writer), table, columns, rows: 0, meta: None })
    }

    fn row(&mut self, cells: impl IntoIterator<Item = Cell>) -> io::Result<()> {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.push(cell)?;
        }
        self.rows += 1;
        if self.rows >= GROUP { self.group() } else { Ok(()) }
    }

    fn group(&mut self) -> io::Result<()> {
        let Some(writer) = self.writer.as_mut().filter(|_| self.rows > 0) else { return Ok(()) };
        self.rows = 0;
        let mut group = writer.next_row_group().map_err(failed)?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column().map_err(failed)? else { break };
            column.write(&mut writer).map_err(failed)?;
            writer.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
        Ok(())
    }

    /// A moment on the wall clock, microseconds.
    fn wall(&self, boot: u64) -> Cell {
        let time = self.meta.as_ref().and_then(|meta| meta.wall(boot));
        time.map_or(Cell::Nothing, |time| Cell::Number(time.as_microsecond()))
    }

    /// Who made an act: owner, task, stack.
    fn who(act: Option<&Act>) -> [Cell; 3] {
        let Some(act) = act else { return [Cell::Nothing, Cell::Nothing, Cell::Nothing] };
        let owner = act.who.owner.as_ref().map(|owner| format!("{} {:#x}", owner.kind, owner.address));
        let stack: Vec<String> = act.who.frames().map(place).collect();
        let stack = (!stack.is_empty()).then(|| stack.join("\n"));
        [owner, act.who.task.as_ref().map(name), stack].map(|text| text.map_or(Cell::Nothing, Cell::Text))
    }
}

fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(inner) => io::Error::other(inner),
        },
        error => io::Error::other(error),
    }
}

fn name(name: &Name) -> String {
    escape_terminal(&name.0)
}

fn place(frame: &Frame) -> String {
    let file = frame.file.as_ref().or(frame.module.as_ref()).map_or_else(String::new, name);
    let line = frame.line.map_or_else(String::new, |line| format!(":{line}"));
    format!("{} ({file}{line})", name(&frame.function))
}

fn number(value: impl TryInto<i64>) -> Cell {
    Cell::Number(value.try_into().unwrap_or(i64::MAX))
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

impl<W: Write + Send> Sink for ParquetSink<W> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.meta = Some(meta.clone());
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        if self.table != Table::Findings {
            return Ok(());
        }
        let mut cells = vec![
            text(finding.rule),
            text(finding.confidence.name()),
            text(finding.severity.name()),
            number(finding.incident),
            number(finding.pid),
            Cell::Text(name(&finding.process)),
            number(finding.fd),
            finding.generation.map_or(Cell::Nothing, number),
            self.wall(finding.time),
            number(finding.time),
            text(&finding.message),
            Cell::Is(finding.complete),
            text(finding.advice),
        ];
        for act in [&finding.root_cause, &finding.culprit, &finding.victim] {
            let act = act.as_ref();
            cells.push(act.map_or(Cell::Nothing, |act| number(act.tid)));
            cells.push(act.map_or(Cell::Nothing, |act| text(act.call)));
            cells.extend(Self::who(act));
        }
        self.row(cells)
    }

    fn loss(&mut self, _loss: &Loss) -> io::Result<()> {
        Ok(())
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        if self.table != Table::Lifetimes {
            return Ok(());
        }
        let Lifetime { opened, closed, .. } = lifetime;
        let closed = closed.as_ref();
        let mut cells = vec![
            number(lifetime.pid),
            Cell::Text(name(&lifetime.process)),
            number(lifetime.table),
            number(lifetime.fd),
            number(lifetime.generation),
            number(lifetime.description),
            text(lifetime.kind),
            Cell::Text(name(&lifetime.object)),
            Cell::Is(lifetime.cloexec),
            self.wall(opened.time),
            number(opened.time),
            text(opened.verb.name()),
            text(opened.call),
            number(opened.tid),
        ];
        cells.extend(Self::who(Some(opened)));
        cells.push(closed.map_or(Cell::Nothing, |act| self.wall(act.time)));
        cells.push(closed.map_or(Cell::Nothing, |act| number(act.time)));
        cells.push(closed.map_or(Cell::Nothing, |act| text(act.verb.name())));
        cells.push(closed.map_or(Cell::Nothing, |act| text(act.call)));
        cells.push(closed.map_or(Cell::Nothing, |act| number(act.tid)));
        cells.extend(Self::who(closed));
        cells.push(number(lifetime.alike().count));
        cells.push(number(lifetime.alike().open_ns));
        self.row(cells)
    }

    fn end(&mut self, _summary: &Summary) -> io::Result<()> {
        self.group()?;
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        writer.finish().map_err(failed)?;
        writer.inner_mut().flush()
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;
    use crate::sink::fixture;

    /// A file in memory that outlives its sink.
    #[derive(Clone, Default)]
    struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn rows_come_back_and_no_type_is_one_that_spark_refuses() {
        let out = Shared::default();
        let mut sink = ParquetSink::new(out.clone(), Table::Lifetimes).unwrap();
        sink.meta(&fixture::meta("python3 a.py")).unwrap();
        let mut lifetime = fixture::lifetime(3, 7, b"\x1b</script>\xff");
        sink.lifetime(&lifetime).unwrap();
        lifetime.closed = None;
        sink.lifetime(&lifetime).unwrap();
        sink.end(&Summary::default()).unwrap();
        let path = std::env::temp_dir().join(format!("fdtrace-parquet-{}", std::process::id()));
        std::fs::write(&path, &*out.0.lock().unwrap()).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let rows: Vec<String> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| row.contains("fd: 3, generation: 7") && !row.contains('\x1b')), "{rows:?}");
        assert!(rows[1].contains("closed: null, closed_ns: null"), "{}", rows[1]);
        for column in reader.metadata().file_metadata().schema_descr().columns() {
            let kind = format!("{:?}", column.logical_type_ref());
            assert!(!kind.contains("is_signed: false") && !kind.contains("NANOS"), "{}: {kind}", column.name());
        }
    }
}
