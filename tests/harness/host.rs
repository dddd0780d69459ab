//! The host as a process: started on a free port, stopped by any signal, and observed from outside.
//!
//! A host starts in an empty folder, without the `EVENTSTREAM_` variables of the person who runs the tests. A thread reads
//! its output all the time, so that the host never waits for a reader. The output is shown when a test fails. Dropping a
//! host kills it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::Client;
use crate::eventually::eventually;
use crate::layout;
use crate::output_lines::OutputLines;

/// The exit code of a host that cannot reach its store.
const NO_STORE: i32 = 3;
/// How often a start is tried. On a busy machine Redis may not answer a host in time.
const STARTS: usize = 10;
/// The host prints this and its address when it accepts events.
const LISTENING: &str = "listening on ";
/// The host prints this when its plugins are loaded.
const READY: &str = "ready, ";

/// How to start a host.
#[derive(Clone, Debug)]
pub struct HostOptions {
    broker_url: String,
    plugins: PathBuf,
    flags: Vec<String>,
    variables: Vec<(String, String)>,
    listen: String,
    log_is_read: bool,
    program: Option<PathBuf>,
}

impl HostOptions {
    /// A host on this store with these plugins and default settings.
    pub fn new(broker_url: &str, plugins: &Path) -> Self {
        Self {
            broker_url: broker_url.into(),
            plugins: plugins.into(),
            flags: Vec::new(),
            variables: Vec::new(),
            listen: "127.0.0.1:0".into(),
            log_is_read: true,
            program: None,
        }
    }

    /// The same with a pipe for the log that is never read.
    #[must_use]
    pub fn with_unread_log(self) -> Self {
        Self { log_is_read: false, ..self }
    }

    /// The same with another build of the program.
    #[must_use]
    pub fn program(self, program: &Path) -> Self {
        Self { program: Some(program.to_owned()), ..self }
    }

    /// The same on another address of this machine.
    #[must_use]
    pub fn listening(self, address: &str) -> Self {
        Self { listen: address.into(), ..self }
    }

    /// The same with a setting, such as `consumer.lease_ms`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        let name = format!("EVENTSTREAM_{}", key.replace(['.', '-'], "_").to_uppercase());
        self.variables.push((name, value.to_string()));
        self
    }

    /// The same with a variable of the environment that is not a setting.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with more flags for `eventstream serve`.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| flag.to_string()));
        self
    }
}

/// A running host.
pub struct Host {
    child: Mutex<Child>,
    pid: Pid,
    url: String,
    output: Arc<OutputLines>,
    _folder: TempDir,
}

/// A host process whose address may not be known yet.
struct LaunchedHost {
    url: String,
    output: Arc<OutputLines>,
    folder: TempDir,
}

impl LaunchedHost {
    fn with(self, child: Child) -> Host {
        let Self { url, output, folder } = self;
        Host { pid: pid_of(&child), child: Mutex::new(child), url, output, _folder: folder }
    }
}

/// A free address.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("a listener has an address")
}

/// A host that ended before it was ready.
#[derive(Debug)]
pub struct ExitedHost {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it printed.
    pub output: String,
}

impl Host {
    /// Starts a host and waits until it is ready.
    ///
    /// # Panics
    /// The host ended. The message has its output.
    #[track_caller]
    pub fn spawn(options: &HostOptions) -> Self {
        let is_redis = options.broker_url.starts_with("redis");
        let mut starts = 1;
        loop {
            match Self::try_spawn(options) {
                Ok(host) => return host,
                Err(exited) if is_redis && starts < STARTS && exited.status.code() == Some(NO_STORE) => starts += 1,
                Err(exited) => panic!("the host ended ({}) and said:\n{}", exited.status, exited.output),
            }
        }
    }

    /// Starts a host and waits until it is ready or ends.
    ///
    /// # Errors
    /// It ended.
    pub fn try_spawn(options: &HostOptions) -> Result<Self, ExitedHost> {
        let (mut host, mut child, readers) = Self::launch(options, &options.listen);
        let address = host.output.wait_for(LISTENING, &mut child);
        let (Some(address), Some(_)) = (address, host.output.wait_for(READY, &mut child)) else {
            let status = child.wait().expect("the host can be waited for");
            for reader in readers {
                reader.join().expect("the reader of the output ends with it");
            }
            return Err(ExitedHost { status, output: host.output.text() });
        };
        host.url = address;
        Ok(host.with(child))
    }

    /// Starts a host and waits until it takes connections, which may be long before it is ready.
    ///
    /// # Panics
    /// It does not take any.
    #[track_caller]
    pub fn starting(options: &HostOptions) -> Self {
        let address = free_address();
        let (mut host, child, _) = Self::launch(options, &address.to_string());
        host.url = format!("http://{address}");
        let host = host.with(child);
        eventually("the host takes connections", || {
            TcpStream::connect(address).map(drop).map_err(|error| format!("{error}; it says {}", host.output()))
        });
        host
    }

    fn launch(options: &HostOptions, listen: &str) -> (LaunchedHost, Child, Vec<std::thread::JoinHandle<()>>) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let program = options.program.as_deref().unwrap_or_else(|| layout::binary());
        let mut command = command_of(program, folder.path());
        command.args(["serve", "--listen", listen, "--broker", &options.broker_url]);
        command.arg("--plugins").arg(&options.plugins).args(&options.flags);
        command.envs(options.variables.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the host starts");
        let output = Arc::new(OutputLines::default());
        let log = options.log_is_read.then(|| output.read(child.stderr.take()));
        let readers = [Some(output.read(child.stdout.take())), log].into_iter().flatten().collect();
        (LaunchedHost { url: String::new(), output, folder }, child, readers)
    }

    /// Its URL: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client of this host.
    pub fn client(&self) -> Client {
        Client::new(&self.url)
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The last lines that it printed.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// Waits until its output contains these words, and returns the output.
    ///
    /// # Panics
    /// They do not appear.
    #[track_caller]
    pub fn wait_for_output(&self, words: &str) -> String {
        eventually(&format!("it says {words:?}"), || {
            let output = self.output();
            if output.contains(words) { Ok(output) } else { Err(output) }
        })
    }

    /// SIGKILL: ends the process at once, and waits until it is gone.
    pub fn kill9(&self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// SIGSTOP: stops the process without ending it.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: lets a stopped process go on.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM: asks the process to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGHUP: its terminal was closed.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// It does not end.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        eventually("the host ends", || match self.exited() {
            Some(status) => Ok(status),
            None => Err(format!("it runs; its output:\n{}", self.output())),
        })
    }

    /// How it ended, or `None` if it still runs.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.lock().try_wait().expect("the host can be waited for")
    }

    /// Its running child processes.
    pub fn children(&self) -> Vec<Pid> {
        let folder = format!("/proc/{}/task", self.pid());
        let tasks = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("cannot read {folder}: {error}"));
        // A thread may have ended meanwhile.
        let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let ids = lists.collect::<Vec<_>>().join(" ");
        ids.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect()
    }

    /// Resident memory now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most memory that was resident at any time, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// The target of each open descriptor, as the kernel names it.
    pub fn open_files(&self) -> Vec<String> {
        let folder = format!("/proc/{}/fd", self.pid());
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("cannot read {folder}: {error}"));
        // A descriptor may have been closed meanwhile.
        let links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        links.map(|link| link.to_string_lossy().into_owned()).collect()
    }

    /// The CPU time used so far by all threads, including those that ended.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc("stat");
        // The name of the program stands in brackets and may hold anything; user and system time are the 12th and 13th
        // field after it, in hundredths of a second on every Linux.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the kernel says how much is resident");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number of kB");
        kib * 1024
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.pid());
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
    }

    fn signal(&self, signal: Signal) {
        // The lock keeps others from waiting for the process, after which its id could belong to another one.
        let mut child = self.lock();
        if child.try_wait().expect("the host can be waited for").is_none() {
            kill_process(self.pid, signal).expect("the host can be signalled");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        {
            let mut child = self.lock();
            // Both fail only if the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- output of the host {} ---\n{}", self.url, self.output());
        }
    }
}

/// Runs one of the host's other commands to its end, in an empty folder.
pub fn run_command(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    eventstream(folder.path()).args(arguments).output().expect("the command starts")
}

/// One of the host's other commands in a folder, not started yet.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = eventstream(folder);
    command.args(arguments);
    command
}

fn eventstream(folder: &Path) -> Command {
    command_of(layout::binary(), folder)
}

fn command_of(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVENTSTREAM_")) {
        command.env_remove(name);
    }
    command
}

fn pid_of(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process has an id")
}
