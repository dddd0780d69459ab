//! The output of a process, read by threads while it runs.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::eventually::PATIENCE;

/// How many of the last lines of output are kept.
const MAX_LINES: usize = 4_000;

/// The lines that a process printed.
#[derive(Default)]
pub(crate) struct OutputLines {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl OutputLines {
    /// Reads a pipe to its end, on a thread.
    pub(crate) fn read(self: &Arc<Self>, pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<()> {
        let pipe = pipe.expect("the output is piped");
        let lines = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
            lines.changed.notify_all();
        })
    }

    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= MAX_LINES {
            lines.drain(..MAX_LINES / 4);
        }
        lines.push(line);
        self.changed.notify_all();
    }

    /// The word after the text that a printed line begins with, or `None` if the process ends first.
    pub(crate) fn wait_for(&self, text: &str, child: &mut Child) -> Option<String> {
        let begun = Instant::now();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(rest) = lines.iter().find_map(|line| line.strip_prefix(text)) {
                return rest.split_whitespace().next().map(str::to_owned);
            }
            if child.try_wait().expect("the host can be waited for").is_some() {
                return None;
            }
            // A start may compile CPython, while other tests keep the machine busy.
            if begun.elapsed() > 4 * PATIENCE {
                let _ = child.kill();
                panic!("the host neither listens nor ends; it said:\n{}", lines.join("\n"));
            }
            let waited = self.changed.wait_timeout(lines, Duration::from_millis(50));
            lines = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(lines, _)| lines);
        }
    }

    /// All lines that are kept.
    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
