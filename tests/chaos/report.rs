//! The results of one run, or of several on one broker: lines for a terminal, and a section of `REPORT.md`.

use std::fmt::{self, Write};
use std::time::Duration;

use eventstream_tests::memory::MemoryShortage;

use crate::nemesis::{FaultCounts, Nemesis};

/// The results of a run.
#[derive(Debug, Default)]
pub struct ChaosReport {
    /// Every promise that was broken, in words.
    pub broken: Vec<String>,
    /// The faults.
    pub done: FaultCounts,
    /// How long faults were injected.
    pub time: Duration,
    /// How often a host was started.
    pub starts: u32,
    /// Events that were accepted.
    pub accepted: u64,
    /// Events that handlers published.
    pub published: u64,
    /// Events that were processed.
    pub processed: u64,
    /// Events that failed.
    pub failed: u64,
    /// Events that have not ended.
    pub waiting: u64,
    /// Attempts after a failure.
    pub retried: u64,
    /// Deliveries that were taken over from hosts that died or were cut off.
    pub recovered: u64,
    /// Runs of handlers that came to nothing. At most this many runs were duplicates, which is allowed.
    pub runs_in_vain: u64,
    /// Effects that are there more than once, which is never allowed.
    pub effects_doubled: u64,
    /// The longest time in which events waited and none made progress.
    pub longest_standstill: Duration,
    /// From the last fault to the end of the last event.
    pub drained_within: Duration,
}

impl ChaosReport {
    /// Adds the results of another run.
    pub fn add(&mut self, other: Self) {
        self.broken.extend(other.broken);
        self.done.add(other.done);
        self.time += other.time;
        self.starts += other.starts;
        self.accepted += other.accepted;
        self.published += other.published;
        self.processed += other.processed;
        self.failed += other.failed;
        self.waiting += other.waiting;
        self.retried += other.retried;
        self.recovered += other.recovered;
        self.runs_in_vain += other.runs_in_vain;
        self.effects_doubled += other.effects_doubled;
        self.longest_standstill = self.longest_standstill.max(other.longest_standstill);
        self.drained_within = self.drained_within.max(other.drained_within);
    }

    /// A section of a document, under a title.
    pub fn markdown(&self, title: &str) -> String {
        let mut text = format!("## {title}\n\n| | |\n|---|---|\n");
        let mut row = |what: &str, is: String| _ = writeln!(text, "| {what} | {is} |");
        row("time under attack", format!("{} s", self.time.as_secs()));
        row("events accepted", self.accepted.to_string());
        row("events published by handlers", self.published.to_string());
        row("ended: processed", self.processed.to_string());
        row("ended: failed", self.failed.to_string());
        row("without an end", self.waiting.to_string());
        row("attempts after a failure", self.retried.to_string());
        row("deliveries taken over from dead or lost hosts", self.recovered.to_string());
        row("duplicate runs of handlers, at most (allowed)", self.runs_in_vain.to_string());
        row("**duplicate effects (never allowed)**", format!("**{}**", self.effects_doubled));
        row("**promises broken**", format!("**{}**", self.broken.len()));
        row("longest time without progress", format!("{:.1} s", self.longest_standstill.as_secs_f64()));
        row("all ended after the last fault within", format!("{:.1} s", self.drained_within.as_secs_f64()));
        row("hosts started", self.starts.to_string());
        row("faults", self.done.total().to_string());
        text.push_str("\n| fault | times | |\n|---|---|---|\n");
        for (nemesis, count) in self.done.counts() {
            let _ = writeln!(text, "| `{}` | {count} | {} |", nemesis.as_str(), self.effect(*nemesis));
        }
        for broken in &self.broken {
            let _ = write!(text, "\n- {}", broken.replace('\n', "\n  "));
        }
        text
    }

    /// What a fault caused, where its name does not say it.
    fn effect(&self, nemesis: Nemesis) -> String {
        match nemesis {
            Nemesis::OomHost if MemoryShortage::is_killed_for_certain() => {
                format!("{} hosts killed by the kernel for want of memory (memory cgroup)", self.done.out_of_memory)
            }
            Nemesis::OomHost => "writable memory limited (RLIMIT_DATA)".into(),
            Nemesis::DropReply => format!("{} replies dropped", self.done.replies_dropped),
            Nemesis::ConfigSet => format!("reported by {} hosts that were asked", self.done.settings_reported),
            _ => String::new(),
        }
    }
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, starts, accepted, published, processed, failed, waiting, retried, recovered, .. } = self;
        let (vain, doubled) = (self.runs_in_vain, self.effects_doubled);
        writeln!(f, "faults      {} ({done})", done.total())?;
        writeln!(f, "hosts       started {starts} times, killed for want of memory {}", done.out_of_memory)?;
        writeln!(f, "accepted    {accepted} events, {published} more published by handlers")?;
        writeln!(f, "ended       {processed} processed, {failed} failed, {waiting} wait")?;
        writeln!(f, "run again   {retried} after a failure, {recovered} since their host died")?;
        writeln!(f, "duplicates  {vain} runs of handlers at most (allowed), {doubled} effects (never)")?;
        writeln!(f, "standstill  {:.1} s at the longest", self.longest_standstill.as_secs_f64())?;
        writeln!(f, "drained     within {:.1} s after the last fault", self.drained_within.as_secs_f64())?;
        write!(f, "broken      {} promises", self.broken.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::EVERYDAY;

    #[test]
    fn rounds_add_up_in_one_section() {
        let round = |accepted, broken: &[&str]| {
            let mut done = FaultCounts::none_of(&EVERYDAY);
            done.count(Nemesis::DropReply);
            let time = Duration::from_secs(5);
            let broken = broken.iter().map(|what| (*what).to_owned()).collect();
            ChaosReport { accepted, broken, done, time, longest_standstill: time, ..ChaosReport::default() }
        };
        let mut all = ChaosReport::default();
        all.add(round(3, &[]));
        all.add(round(4, &["a\nb"]));
        let text = all.markdown("A title");
        for line in [
            "## A title",
            "| events accepted | 7 |",
            "| time under attack | 10 s |",
            "| `drop-reply` | 2 |",
            "- a\n  b",
        ] {
            assert!(text.contains(line), "{line:?} stands in {text}");
        }
        assert!(text.contains("without progress | 5.0 s"), "the longest of all: {text}");
    }
}
