//! A bar for what takes longer than a second; on a terminal only, and on standard error, beside what was asked for.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Nothing is shown before.
const QUIET: Duration = Duration::from_secs(1);
/// How often it is drawn, per second.
const DRAWS: u8 = 10;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Events,
    Bytes,
}

/// A bar. It vanishes when it is dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    /// A bar that shows nothing yet.
    pub(super) fn new(verb: &'static str, unit: Unit) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_style(style(unit, false));
        bar.set_prefix(verb);
        Self { bar, begun: Instant::now() }
    }

    /// Has something else written to the terminal, without the bar in between.
    pub(super) fn aside(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    /// So much is done, of so much if that is known.
    pub(super) fn show(&self, unit: Unit, done: u64, all: Option<u64>) {
        if self.begun.elapsed() < QUIET {
            return;
        }
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS));
        }
        if let Some(all) = all {
            if self.bar.length().is_none() {
                self.bar.set_style(style(unit, true));
            }
            // More may come while it goes on.
            self.bar.set_length(all.max(done));
        }
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(unit: Unit, is_length_known: bool) -> ProgressStyle {
    let template = match (unit, is_length_known) {
        (Unit::Events, true) => "{prefix} [{bar:30}] {human_pos}/{human_len} events, {eta} left",
        (Unit::Events, false) => "{prefix} {spinner} {human_pos} events",
        (Unit::Bytes, true) => "{prefix} [{bar:30}] {bytes}/{total_bytes}, {eta} left",
        (Unit::Bytes, false) => "{prefix} {spinner} {bytes}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_one() {
        for template in [Unit::Events, Unit::Bytes].map(|unit| [style(unit, true), style(unit, false)]).iter().flatten()
        {
            let bar = ProgressBar::with_draw_target(Some(3), ProgressDrawTarget::hidden());
            bar.set_style(template.clone());
            bar.set_position(2);
        }
    }
}
