//! A `redis-server` process of a test's own: its own port, its own directory, everything on stable storage.
//!
//! The server runs with `appendonly yes` and `appendfsync always`, so that what it confirmed survives [`RedisServer::kill9`].
//! Arguments of [`RedisServer::start_with`] take precedence. All methods block the calling thread, usually for milliseconds,
//! and may be called from several threads. Use [`RedisServer::admin`] to look at the server and to disturb it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::Machine;
use crate::store::unpack;

/// How long a server may take to answer its first PING. It reads its log first.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How many ports are tried, since another program may take one first.
const PORT_TRIES: usize = 20;
/// How long an administrative command may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);

/// A running `redis-server`, killed when this is dropped.
pub struct RedisServer {
    port: u16,
    directory: tempfile::TempDir,
    extra: Vec<String>,
    variables: Vec<(String, String)>,
    child: Mutex<Option<Child>>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with further arguments, such as `["--maxmemory", "64mb"]`, and waits until it answers.
    pub fn start_with(extra: &[&str]) -> Result<Self> {
        Self::start_as(extra, |_| Ok(Vec::new()))
    }

    /// Starts a server on the files of an archive, and waits until it answers.
    pub fn start_from(archive: &Path) -> Result<Self> {
        Self::start_as(&[], |directory| unpack(archive, directory).map(|()| Vec::new()))
    }

    /// Starts a server whose directory is the disk of a machine, and waits until it answers.
    pub fn start_on(machine: &Machine) -> Result<Self> {
        Self::start_as(&[], |directory| Ok(machine.variables(directory)))
    }

    /// Starts a server with further arguments. `prepare` may fill its directory, and gives the variables of its environment.
    fn start_as(extra: &[&str], prepare: impl Fn(&Path) -> Result<Vec<(String, String)>>) -> Result<Self> {
        let extra: Vec<String> = extra.iter().map(|&argument| argument.to_owned()).collect();
        for _ in 0..PORT_TRIES {
            let port = free_port()?;
            let directory = tempfile::Builder::new().prefix("eventstream-redis-").tempdir()?;
            let variables = prepare(directory.path())?;
            let server = Self { port, directory, extra: extra.clone(), variables, child: Mutex::new(None) };
            if server.spawn()? {
                return Ok(server);
            }
        }
        bail!("redis-server did not start: every one of {PORT_TRIES} ports was taken")
    }

    /// The URL of the server, as the product takes it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port; it stays the same over [`Self::restart`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address on which the server listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The directory in which the server keeps its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A connection past every proxy, for a look at the data and for administrative commands.
    pub fn admin(&self) -> Result<redis::Connection> {
        let client = redis::Client::open(self.url())?;
        let connection = client.get_connection_with_timeout(ADMIN_TIMEOUT)?;
        connection.set_read_timeout(Some(ADMIN_TIMEOUT))?;
        Ok(connection)
    }

    /// Runs one administrative command, such as `["CONFIG", "SET", "maxmemory", "1mb"]`, on a connection of its own.
    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let (name, arguments) = words.split_first().context("a command has a name")?;
        let mut command = redis::cmd(name);
        for argument in arguments {
            command.arg(*argument);
        }
        command.query(&mut self.admin()?).with_context(|| format!("the command {words:?}"))
    }

    /// A field of what the server says of itself, such as `used_memory`.
    ///
    /// # Errors
    /// The server does not answer, or has no such field.
    pub fn info<T: std::str::FromStr>(&self, field: &str) -> Result<T> {
        let text: String = self.command(&["INFO", "everything"])?;
        let found = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok());
        found.with_context(|| format!("Redis says no {field}"))
    }

    /// Ends the server as a crash does and waits until it is gone. Does nothing if it is not running.
    pub fn kill9(&self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the server without ending it (SIGSTOP): it keeps its connections and answers nothing.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a stopped server go on (SIGCONT).
    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Starts the server again on the same port and directory, after a crash if it is still running, and waits until
    /// it answers.
    pub fn restart(&self) -> Result<()> {
        self.kill9();
        for _ in 0..PORT_TRIES {
            if self.spawn()? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("redis-server did not start again: port {} is taken", self.port)
    }

    /// Whether a process runs, stopped or not.
    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let child = child.as_ref().context("the server is not running")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("the process has an id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Starts the process and waits for its first answer; false if it ended by itself, as it does when the port is taken.
    fn spawn(&self) -> Result<bool> {
        let log = std::fs::File::create(self.directory.path().join("redis.log"))?;
        let mut child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "local"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.extra)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("redis-server cannot be started; is it installed?")?;
        let deadline = Instant::now() + START_LIMIT;
        let answers = loop {
            if child.try_wait()?.is_some() {
                break false;
            }
            // Another program may answer on the port, so the process id is compared.
            if self.answering_process() == Some(child.id()) {
                break true;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!("redis-server did not answer within {START_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if answers {
            *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        }
        Ok(answers)
    }

    fn answering_process(&self) -> Option<u32> {
        let mut connection = self.admin().ok()?;
        redis::cmd("PING").query::<String>(&mut connection).ok()?;
        let info: String = redis::cmd("INFO").arg("server").query(&mut connection).ok()?;
        info.lines().find_map(|line| line.strip_prefix("process_id:"))?.trim().parse().ok()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A port that is free at this moment. It is below those that the system gives to outgoing connections, so that a server
/// can be started on it again later.
pub fn free_port() -> Result<u16> {
    (0..200)
        .map(|_| fastrand::u16(10_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("none of 200 ports below those for connections is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_survives_a_crash_and_a_stopped_server_goes_on() {
        let server = RedisServer::start().unwrap();
        let () = server.command(&["SET", "a", "1"]).unwrap();
        server.kill9();
        assert!(!server.is_running());
        server.restart().unwrap();
        assert_eq!(server.command::<String>(&["GET", "a"]).unwrap(), "1");
        server.stop().unwrap();
        assert!(server.is_running());
        server.cont().unwrap();
        assert_eq!(server.command::<String>(&["GET", "a"]).unwrap(), "1");
    }

    #[test]
    fn further_arguments_win() {
        let server = RedisServer::start_with(&["--appendfsync", "everysec"]).unwrap();
        let setting: Vec<String> = server.command(&["CONFIG", "GET", "appendfsync"]).unwrap();
        assert_eq!(setting, ["appendfsync", "everysec"]);
    }
}
