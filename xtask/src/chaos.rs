//! `cargo xtask chaos`: runs hosts under load while everything around them fails, and audits the end of every event.
//!
//! `--report` writes the figures to a document, with the machine and the command that repeats the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::ValueEnum;

use crate::process::{cargo, output, root, run as run_command, target_dir};
use crate::{guests, redis};

/// How long, on what, and with which faults.
#[derive(clap::Args)]
pub struct ChaosOptions {
    /// How long to inject faults on each broker, in seconds. A long run is made in rounds of at most 300 s.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The seed of the load and of the timetable of faults; a random one by default, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// The only broker to run on; both by default.
    #[arg(long)]
    broker: Option<BrokerChoice>,
    /// The only faults to inject: kill-host, kill-store, stop-host, oom-host, freeze-wire, delay-wire, cut-wire, drop-reply,
    /// destroy-groups, flush-scripts, fill-memory, config-set, cut-power, fill-disk, jump-clock, swap-plugin,
    /// multiply-events, lack-plugin, stop-clients. Those of the embedded broker are kill-host, stop-host, oom-host,
    /// cut-power, fill-disk, jump-clock, swap-plugin, multiply-events and stop-clients.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// The cargo profile to build with.
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Write the results to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BrokerChoice {
    /// Three hosts on one Redis, each with a network link of its own.
    Redis,
    /// One host on a directory.
    Embedded,
}

impl BrokerChoice {
    fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Embedded => "embedded",
        }
    }
}

/// Builds everything and runs the attack on each broker.
pub fn run(options: &ChaosOptions) -> anyhow::Result<()> {
    redis::ensure_program()?;
    guests::build()?;
    run_command(&mut cargo("", &["build", "--workspace", "--locked", "--profile", &options.profile]))?;
    let seed = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| u64::from(now.subsec_micros()))
    });
    let mut report = heading(options, seed)?;
    let mut failed = None;
    for broker in [BrokerChoice::Redis, BrokerChoice::Embedded] {
        if options.broker.is_some_and(|only| only != broker) {
            continue;
        }
        let section = target_dir()?.join(format!("chaos-{}.md", broker.name()));
        // An earlier run may have left its section here.
        let _ = fs::remove_file(&section);
        let done = attack(options, broker, seed, &section);
        report.push_str(&fs::read_to_string(&section).unwrap_or_default());
        report.push('\n');
        failed = failed.or(done.err());
    }
    if let Some(file) = &options.report {
        fs::write(file, report.trim_end().to_owned() + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    failed.map_or(Ok(()), Err)
}

fn attack(options: &ChaosOptions, broker: BrokerChoice, seed: u64, section: &Path) -> anyhow::Result<()> {
    let arguments = ["run", "--quiet", "--package", "eventstream-tests", "--locked", "--example", "chaos"];
    let mut command: Command = cargo("", &arguments);
    command
        .args(["--profile", &options.profile, "--", broker.name(), &options.seconds.to_string(), &seed.to_string()])
        .arg(section)
        .args(&options.faults);
    run_command(&mut command)
}

/// The head of the report: the command, the machine and the versions.
fn heading(options: &ChaosOptions, seed: u64) -> anyhow::Result<String> {
    let git = |arguments: &[&str]| output(Command::new("git").args(arguments).current_dir(root()));
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|_| "unknown".into());
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|changes| !changes.is_empty());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib: u64 = memory.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let redis = output(Command::new("redis-server").arg("--version"))?;
    let redis = redis.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("unknown").to_owned();
    let only = options.broker.map_or_else(String::new, |broker| format!(" --broker {}", broker.name()));
    let faults =
        if options.faults.is_empty() { String::new() } else { format!(" --faults {}", options.faults.join(",")) };
    let (seconds, profile) = (options.seconds, &options.profile);
    Ok(format!(
        "# A run of `cargo xtask chaos`\n\n\
         `tests/chaos/main.rs` and `nemesis.rs` describe the faults, `tests/harness/ledger.rs` the audit. The command repeats \
         the load and the timetable of faults. What a fault hits depends on the machine as well.\n\n\
         ```sh\ncargo xtask chaos --seconds {seconds} --seed {seed}{only}{faults} --profile {profile} --report FILE\n```\n\n\
         | | |\n|---|---|\n\
         | commit | `{}`{} |\n| seed | {seed} |\n| machine | {cores} cores, {} GiB of memory, Linux {kernel} |\n\
         | store | Redis {redis} with `appendfsync always`; SQLite embedded |\n\n",
        commit.trim(),
        if is_changed { " and changes that are not committed" } else { "" },
        (memory_kib + 524_288) / 1_048_576,
    ))
}
