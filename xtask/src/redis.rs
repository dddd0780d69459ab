//! A Redis server for `cargo xtask run --redis`: finds or installs the program, starts a server on a folder, and stops it.
//!
//! The server listens on a free port of 127.0.0.1 and writes an append-only file with `appendfsync always`. It runs in a
//! process group of its own. So ctrl-c does not reach it, and the host still has its store while it drains.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::process::{is_installed, output};
use crate::system::{self, Installers};

/// The names of the program. The first one that is installed is used.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// How long a server may take to answer. It reads its data first.
const START_LIMIT: Duration = Duration::from_secs(60);
const HOW_TO_INSTALL: &str = "there is no redis-server: install Redis 7.0 or later (Debian, Ubuntu: `sudo apt-get install \
    redis-server`; Fedora: `sudo dnf install redis`; Alpine: `apk add redis`; Arch: `sudo pacman -S valkey`; macOS: `brew \
    install redis`)";
/// How each package manager installs the program.
const INSTALLERS: Installers = [
    ("apt-get", &[&["update"], &["install", "--yes", "--no-install-recommends", "redis-server"]]),
    ("dnf", &[&["install", "--assumeyes", "redis"]]),
    ("apk", &[&["add", "redis"]]),
    ("pacman", &[&["--sync", "--refresh", "--noconfirm", "valkey"]]),
    ("brew", &[&["install", "redis"]]),
];

/// A running server. Dropping it kills the process.
pub struct LocalRedis {
    child: Child,
    port: u16,
    port_file: PathBuf,
}

impl LocalRedis {
    /// Starts a server on the data in a folder. Stops a server first that a killed run left there.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let program = ensure_program()?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let port_file = folder.join("port");
        stop_orphan(&folder, &port_file)?;
        // The port is free when it is chosen, but another program may take it before the server does.
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let child = command(program, &folder, port).spawn().with_context(|| format!("cannot start {program}"))?;
            let mut server = Self { child, port, port_file: port_file.clone() };
            std::fs::write(&server.port_file, port.to_string())?;
            if server.wait_for_answer()? {
                return Ok(server);
            }
        }
        bail!("{program} does not start; its log is {}", folder.join("redis.log").display())
    }

    /// The URL for `--broker`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Waits for the first answer. False if the server ended instead.
    fn wait_for_answer(&mut self) -> anyhow::Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < START_LIMIT {
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            if ask(self.port, "PING").is_ok_and(|answer| answer.first().is_some_and(|line| line == "+PONG")) {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the Redis server did not answer within {} s", START_LIMIT.as_secs())
    }

    /// Stops the server with SIGTERM and waits until it has ended.
    pub fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .context("cannot stop the Redis server")?;
        }
        self.child.wait().context("cannot wait for the Redis server")?;
        Ok(())
    }
}

impl Drop for LocalRedis {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.port_file);
    }
}

/// The name of a server program of version 7.0 or later. Installs one if there is none.
pub fn ensure_program() -> anyhow::Result<&'static str> {
    if find_program().is_none() {
        system::install(&INSTALLERS, HOW_TO_INSTALL)?;
    }
    let program = find_program().context(HOW_TO_INSTALL)?;
    let version = output(Command::new(program).arg("--version"))?;
    // `Redis server v=7.0.15 sha=00000000:0 malloc=...`
    let major = version.split("v=").nth(1).and_then(|rest| rest.split('.').next()).and_then(|text| text.parse().ok());
    match major {
        Some(7u32..) => Ok(program),
        _ => bail!("{program} is too old, 7.0 is the least: {}", version.trim()),
    }
}

fn find_program() -> Option<&'static str> {
    PROGRAMS.into_iter().find(|program| is_installed(program))
}

fn command(program: &str, folder: &Path, port: u16) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--daemonize", "no"]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--logfile", "redis.log"]);
    command.arg("--dir").arg(folder);
    command
}

/// Stops a server that a killed run left on this folder: two servers would destroy each other's data.
fn stop_orphan(folder: &Path, port_file: &Path) -> anyhow::Result<()> {
    let Some(port) = std::fs::read_to_string(port_file).ok().and_then(|text| text.trim().parse::<u16>().ok()) else {
        return Ok(());
    };
    let is_ours = |lines: Vec<String>| lines.iter().any(|line| Path::new(line) == folder);
    let begun = Instant::now();
    while ask(port, "CONFIG GET dir").is_ok_and(is_ours) {
        if begun.elapsed() > START_LIMIT {
            bail!("a Redis server of an earlier run still uses {} and does not end", folder.display());
        }
        // The server may close the connection before it answers.
        let _ = ask(port, "SHUTDOWN");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Sends one command and returns the lines of the answer. Waits at most a second.
fn ask(port: u16, command: &str) -> anyhow::Result<Vec<String>> {
    let limit = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limit)?;
    stream.set_read_timeout(Some(limit))?;
    // After `QUIT` the server closes the connection, which marks the end of the answer.
    write!(stream, "{command}\r\nQUIT\r\n")?;
    BufReader::new(stream).lines().map(|line| Ok(line?.trim_end().to_owned())).collect()
}
