//! Lines of text with tones. A layout is made of plain text and knows its width; colours come last and change no column.
//! A tone only repeats what the words say: without colour nothing is missing.

use std::fmt::Write;

use anstyle::{AnsiColor, Effects, Style};

use crate::escape::columns;

/// What a piece of text is, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Strong,
    Dim,
    Error,
    Warning,
    Note,
    Help,
    Gutter,
    RootCause,
    Culprit,
    Victim,
}

impl Tone {
    fn style(self) -> Style {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        match self {
            Self::Plain => Style::new(),
            Self::Strong => Style::new().effects(Effects::BOLD),
            Self::Dim => Style::new().effects(Effects::DIMMED),
            Self::Error | Self::Culprit => colour(AnsiColor::Red).effects(Effects::BOLD),
            Self::Warning => colour(AnsiColor::Yellow).effects(Effects::BOLD),
            Self::Note => colour(AnsiColor::Cyan).effects(Effects::BOLD),
            Self::Help => colour(AnsiColor::Green).effects(Effects::BOLD),
            Self::Gutter => colour(AnsiColor::Blue).effects(Effects::BOLD),
            Self::RootCause => colour(AnsiColor::Magenta).effects(Effects::BOLD),
            Self::Victim => colour(AnsiColor::Yellow).effects(Effects::BOLD),
        }
    }
}

/// One line, without its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pieces: Vec<(Tone, String)>,
    width: usize,
}

impl Line {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn of(tone: Tone, text: impl Into<String>) -> Self {
        Self::new().and(tone, text)
    }

    /// Adds text at the end.
    pub fn push(&mut self, tone: Tone, text: impl Into<String>) {
        let text = text.into();
        self.width += columns(&text);
        self.pieces.push((tone, text));
    }

    pub fn and(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.push(tone, text);
        self
    }

    /// Adds spaces until the line has this width.
    pub fn pad(&mut self, width: usize) {
        if let Some(lacking @ 1..) = width.checked_sub(self.width) {
            self.push(Tone::Plain, " ".repeat(lacking));
        }
    }

    pub fn padded(mut self, width: usize) -> Self {
        self.pad(width);
        self
    }

    /// Without the spaces at its end.
    pub fn trimmed(mut self) -> Self {
        while let Some((_, text)) = self.pieces.last_mut() {
            text.truncate(text.trim_end_matches(' ').len());
            if !text.is_empty() {
                break;
            }
            self.pieces.pop();
        }
        self.width = self.pieces.iter().map(|(_, text)| columns(text)).sum();
        self
    }

    /// Columns that it takes in a terminal.
    pub fn width(&self) -> usize {
        self.width
    }

    pub fn is_empty(&self) -> bool {
        self.width == 0
    }

    /// The line as bytes for a terminal; no spaces at the end.
    pub fn paint(&self, colour: bool) -> String {
        let mut out = String::new();
        for (tone, text) in &self.pieces {
            let style = tone.style();
            if colour && style != Style::new() && !text.trim().is_empty() {
                // Writing to a string does not fail.
                let _ = write!(out, "{style}{text}{style:#}");
            } else {
                out.push_str(text);
            }
        }
        out.truncate(out.trim_end_matches(' ').len());
        out
    }
}

/// Breaks a text into lines: `first` stands before the first of them, the others begin under its end or at `hang`.
pub fn paragraph(first: Line, hang: usize, tone: Tone, text: &str, width: usize) -> Vec<Line> {
    let lead = " ".repeat(first.width());
    let hanging = " ".repeat(hang);
    let options = textwrap::Options::new(width.max(first.width().max(hang) + 16))
        .initial_indent(&lead)
        .subsequent_indent(&hanging)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
    let mut lines: Vec<Line> = Vec::new();
    for wrapped in textwrap::wrap(text, options) {
        let indent = if lines.is_empty() { &lead } else { &hanging };
        let words = wrapped.strip_prefix(indent.as_str()).unwrap_or_else(|| wrapped.trim_start()).to_owned();
        let mut line = if lines.is_empty() { first.clone() } else { Line::new().padded(hang) };
        line.push(tone, words);
        lines.push(line);
    }
    lines
}
