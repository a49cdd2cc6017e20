//! A bar on a terminal, for files that take a while. Nothing is shown to a program or under `--quiet`.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::plan::Reading;

pub struct Progress(Option<ProgressBar>);

/// Ten times a second is enough for eyes.
const HERTZ: u8 = 10;

impl Progress {
    /// `telling`: something is written to the standard output meanwhile. A bar over a report on the same terminal would
    /// tear both.
    pub fn over(reading: &Reading, telling: bool) -> Self {
        if reading.quiet || !std::io::stderr().is_terminal() || (telling && std::io::stdout().is_terminal()) {
            return Self(None);
        }
        let sizes: Option<u64> = reading.files.iter().map(|path| Some(std::fs::metadata(path).ok()?.len())).sum();
        let bar = match sizes {
            Some(bytes) => ProgressBar::new(bytes),
            None => ProgressBar::new_spinner(),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(HERTZ));
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(Some(bar))
    }

    pub fn at(&mut self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
