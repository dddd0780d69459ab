//! `cargo xtask run`: serves the example plugins until ctrl-c; with `--redis` on a Redis server of its own.
//!
//! The host runs in a process group of its own and gets each signal once, from this program. After the first signal it
//! drains, after the second it stops at once. The Redis server stops last. The events stay in `target/run/data` or
//! `target/run/redis`, and the next run goes on with them.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, bail};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use crate::process::{cargo, run as run_command, target_dir};
use crate::{guests, redis};

/// How to serve.
#[derive(clap::Args)]
pub struct RunOptions {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: String,
    /// Start a Redis server and keep the events there instead of in a directory.
    #[arg(long)]
    redis: bool,
    /// Build the host with optimization. The first build takes minutes.
    #[arg(long)]
    release: bool,
    /// More flags for `eventstream serve`, after `--`.
    #[arg(last = true)]
    more: Vec<String>,
}

/// Builds and serves until a signal comes or the host ends.
pub fn run(options: &RunOptions) -> anyhow::Result<()> {
    guests::build_plugins()?;
    let profile = if options.release { "release" } else { "dev" };
    run_command(&mut cargo("", &["build", "--package", "eventstream", "--locked", "--profile", profile]))?;

    let folder = target_dir()?.join("run");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock = File::create(folder.join("lock"))?;
    if lock.try_lock().is_err() {
        bail!("another `cargo xtask run` uses {}", folder.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if !options.redis {
        let broker = format!("embedded:{}", folder.join("data").display());
        return runtime.block_on(serve(options, &broker));
    }
    let server = redis::LocalRedis::start(&folder.join("redis"))?;
    eprintln!("+ redis-server on {} (data in {})", server.url(), folder.join("redis").display());
    let served = runtime.block_on(serve(options, &server.url()));
    server.stop()?;
    served
}

async fn serve(options: &RunOptions, broker: &str) -> anyhow::Result<()> {
    // Before the host starts: from here on ctrl-c cannot end this program and leave the others running.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let plugins = target_dir()?.join("plugins");
    let mut command = tokio::process::Command::new(binary(options.release)?);
    command.arg("serve").args(["--listen", &options.listen, "--broker", broker]);
    command.arg("--plugins").arg(plugins).args(&options.more).process_group(0);
    let mut host = command.spawn().context("cannot start the host")?;
    loop {
        tokio::select! {
            status = host.wait() => {
                let status = status?;
                if !status.success() {
                    bail!("the host ended with {status}");
                }
                return Ok(());
            }
            _ = interrupt.recv() => {
                eprintln!("stopping; ctrl-c again to stop at once");
                terminate_host(&host)?;
            }
            _ = terminate.recv() => terminate_host(&host)?,
        }
    }
}

fn terminate_host(host: &Child) -> anyhow::Result<()> {
    let pid = host.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    match pid {
        Some(pid) => Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?),
        None => Ok(()),
    }
}

fn binary(release: bool) -> anyhow::Result<PathBuf> {
    Ok(target_dir()?.join(if release { "release" } else { "debug" }).join("eventstream"))
}
