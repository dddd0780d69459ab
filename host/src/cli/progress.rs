//! A progress bar for commands that run longer than a second. It appears on a terminal only, on standard error.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a command runs before the bar appears.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// How often the bar is drawn, per second.
const DRAWS_PER_SECOND: u8 = 10;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgressUnit {
    Keys,
    Events,
    Bytes,
}

/// A bar. It vanishes when it is dropped.
pub(super) struct TransferProgress {
    bar: ProgressBar,
    started: Instant,
    /// What is counted now, and whether the total is known.
    counted: Cell<Option<(ProgressUnit, bool)>>,
}

impl TransferProgress {
    /// A bar that shows nothing yet.
    pub(super) fn new(verb: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_prefix(verb);
        Self { bar, started: Instant::now(), counted: Cell::new(None) }
    }

    /// Writes something else to the terminal while the bar is hidden.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Shows how much is done, and the total if it is known.
    pub(super) fn show(&self, unit: ProgressUnit, done: u64, all: Option<u64>) {
        if self.started.elapsed() < QUIET_TIME {
            return;
        }
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
        }
        let counted = Some((unit, all.is_some()));
        if self.counted.replace(counted) != counted {
            self.bar.set_style(style(unit, all.is_some()));
        }
        if let Some(all) = all {
            // The total may grow meanwhile.
            self.bar.set_length(all.max(done));
        }
        self.bar.set_position(done);
    }
}

impl Drop for TransferProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn template(unit: ProgressUnit, is_length_known: bool) -> &'static str {
    match (unit, is_length_known) {
        (ProgressUnit::Keys, _) => "{prefix} {spinner} {human_pos} keys",
        (ProgressUnit::Events, true) => "{prefix} [{bar:30}] {human_pos}/{human_len} events, {eta} left",
        (ProgressUnit::Events, false) => "{prefix} {spinner} {human_pos} events",
        (ProgressUnit::Bytes, true) => "{prefix} [{bar:30}] {bytes}/{total_bytes}, {eta} left",
        (ProgressUnit::Bytes, false) => "{prefix} {spinner} {bytes}",
    }
}

fn style(unit: ProgressUnit, is_length_known: bool) -> ProgressStyle {
    let style = ProgressStyle::with_template(template(unit, is_length_known));
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_one() {
        for unit in [ProgressUnit::Keys, ProgressUnit::Events, ProgressUnit::Bytes] {
            for is_length_known in [false, true] {
                ProgressStyle::with_template(template(unit, is_length_known)).unwrap();
            }
        }
    }
}
