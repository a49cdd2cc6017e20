//! Samples, and the tables that show them.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// Samples of one quantity.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Not a number if there are none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (len, middle) if len % 2 == 1 => sorted[middle],
            (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    pub fn low(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    pub fn high(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }
}

/// One table, and the same as data.
#[derive(Debug)]
pub struct Table {
    pub title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    data: Vec<Value>,
    notes: Vec<String>,
}

impl Table {
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), rows: Vec::new(), data: Vec::new(), notes: Vec::new() }
    }

    /// A row as it is shown, and as data.
    pub fn row(&mut self, cells: &[String], data: Value) {
        self.rows.push(cells.to_vec());
        self.data.push(data);
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// As Markdown, which a terminal shows well enough.
    pub fn markdown(&self) -> String {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
        };
        let mut text = format!("\n### {}\n\n", self.title);
        let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let _ = writeln!(text, "{}", line(&mut self.columns.iter().copied()));
        let _ = writeln!(text, "{}", line(&mut dashes.iter().map(String::as_str)));
        for row in &self.rows {
            let _ = writeln!(text, "{}", line(&mut row.iter().map(String::as_str)));
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    pub fn json(&self) -> Value {
        let mut map = Map::new();
        map.insert("title".into(), json!(self.title));
        map.insert("rows".into(), json!(self.data));
        map.insert("notes".into(), json!(self.notes));
        Value::Object(map)
    }
}

/// Three digits that count.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((Samples(vec![9.0, 1.0, 2.0]).median() - 2.0).abs() < 1e-9);
        assert!((Samples(vec![4.0, 1.0, 2.0, 9.0]).median() - 3.0).abs() < 1e-9);
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn a_table_has_its_columns_under_each_other() {
        let mut table = Table::new("T", &["what", "time"]);
        table.row(&["a loop".to_owned(), "1.50×".to_owned()], json!({}));
        let text = table.markdown();
        let lines: Vec<&str> = text.lines().skip(3).collect();
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{text}");
        assert!(text.contains("1.50×"), "{text}");
    }
}
