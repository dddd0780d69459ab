//! The machine that something was measured on, without anything that names it.

use std::fmt;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What a figure depends on beside the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MachineFacts {
    pub(super) cores: usize,
    pub(super) cpu: String,
    pub(super) memory_gib: u64,
    pub(super) kernel: String,
    pub(super) redis: String,
    pub(super) rustc: String,
}

impl MachineFacts {
    /// This machine.
    pub(super) fn look() -> Self {
        let file = |path| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib: u64 = value(&file("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.split(' ').next()?.parse().ok())
            .unwrap_or_default();
        let version = output("redis-server", &["--version"]);
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: value(&file("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            memory_gib: memory_kib.div_ceil(1 << 20),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            redis: version.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("?").to_owned(),
            rustc: output("rustc", &["--version"]).split_whitespace().nth(1).unwrap_or("?").to_owned(),
        }
    }
}

impl fmt::Display for MachineFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, memory_gib, kernel, redis, rustc } = self;
        write!(f, "{cores} cores of {cpu}, {memory_gib} GiB, Linux {kernel}, Redis {redis}, rustc {rustc}")
    }
}

/// How many wanted a core over the last minute, on average.
pub(super) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// The commit of the sources; `+` behind it if they were changed since.
pub(super) fn commit() -> String {
    let commit = output("git", &["rev-parse", "--short=10", "HEAD"]).trim().to_owned();
    let changed = output("git", &["status", "--porcelain", "--untracked-files=no"]);
    let is_changed = changed.lines().any(|line| !line.contains("benches/"));
    if commit.is_empty() { "unknown".into() } else { format!("{commit}{}", if is_changed { "+" } else { "" }) }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
