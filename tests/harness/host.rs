//! The host as a process: started on a port of its own, stopped in every way there is, observed from outside.
//!
//! A host starts in an empty folder and sees none of the `EVENTSTREAM_` variables of whoever runs the tests. Its output
//! is read all the time, so that it never waits for a reader, and is shown when a test fails. Dropping a host kills it.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::Client;
use crate::eventually::{PATIENCE, eventually};
use crate::layout;

/// The most lines of output that are kept, the last ones.
const MAX_LINES: usize = 4_000;
/// How a host ends that does not reach its store.
const NO_STORE: i32 = 3;
/// How often a host is started whose Redis, on a busy machine, does not answer within the second that it is given.
const STARTS: usize = 10;
/// What the host prints once it accepts events, before the address.
const LISTENING: &str = "listening on ";
/// What the host prints once the plugins of its start are loaded.
const READY: &str = "ready, ";

/// How to start a host.
#[derive(Clone, Debug)]
pub struct HostOptions {
    broker_url: String,
    plugins: PathBuf,
    flags: Vec<String>,
    variables: Vec<(String, String)>,
    log_is_read: bool,
}

impl HostOptions {
    /// A host on this store with these plugins, and defaults for the rest.
    pub fn new(broker_url: &str, plugins: &Path) -> Self {
        Self {
            broker_url: broker_url.into(),
            plugins: plugins.into(),
            flags: Vec::new(),
            variables: Vec::new(),
            log_is_read: true,
        }
    }

    /// The same with a pipe for a log that nobody reads.
    #[must_use]
    pub fn with_a_log_that_nobody_reads(self) -> Self {
        Self { log_is_read: false, ..self }
    }

    /// The same with a setting, such as `consumer.lease_ms`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        let name = format!("EVENTSTREAM_{}", key.replace(['.', '-'], "_").to_uppercase());
        self.variables.push((name, value.to_string()));
        self
    }

    /// The same with a variable of the environment that is no setting.
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
    output: Arc<Lines>,
    _folder: TempDir,
}

/// A host whose address need not be known yet.
struct Launched {
    url: String,
    output: Arc<Lines>,
    folder: TempDir,
}

impl Launched {
    fn with(self, child: Child) -> Host {
        let Self { url, output, folder } = self;
        Host { pid: pid_of(&child), child: Mutex::new(child), url, output, _folder: folder }
    }
}

/// An address that nobody listens on.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("a listener has an address")
}

/// A host that ended before it was ready.
#[derive(Debug)]
pub struct Exited {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it printed.
    pub output: String,
}

impl Host {
    /// Starts a host and waits until it is ready.
    ///
    /// # Panics
    /// It ended instead; with all that it printed.
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
    pub fn try_spawn(options: &HostOptions) -> Result<Self, Exited> {
        let (mut host, mut child, readers) = Self::launch(options, "127.0.0.1:0");
        let address = host.output.wait_for(LISTENING, &mut child);
        let (Some(address), Some(_)) = (address, host.output.wait_for(READY, &mut child)) else {
            let status = child.wait().expect("the host can be waited for");
            for reader in readers {
                reader.join().expect("the reader of the output ends with it");
            }
            return Err(Exited { status, output: host.output.text() });
        };
        host.url = address;
        Ok(host.with(child))
    }

    /// Starts a host and waits only until it takes connections, which may be long before it is ready.
    ///
    /// # Panics
    /// It takes none.
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

    fn launch(options: &HostOptions, listen: &str) -> (Launched, Child, Vec<std::thread::JoinHandle<()>>) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut command = eventstream(folder.path());
        command.args(["serve", "--listen", listen, "--broker", &options.broker_url]);
        command.arg("--plugins").arg(&options.plugins).args(&options.flags);
        command.envs(options.variables.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the host starts");
        let output = Arc::new(Lines::default());
        let log = options.log_is_read.then(|| output.read(child.stderr.take()));
        let readers = [Some(output.read(child.stdout.take())), log].into_iter().flatten().collect();
        (Launched { url: String::new(), output, folder }, child, readers)
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
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

    /// All that it printed so far, the last lines of it.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// Waits until these words are in its output, which comes in by and by, and gives all of it.
    ///
    /// # Panics
    /// They do not come.
    #[track_caller]
    pub fn wait_for_output(&self, words: &str) -> String {
        eventually(&format!("it says {words:?}"), || {
            let output = self.output();
            if output.contains(words) { Ok(output) } else { Err(output) }
        })
    }

    /// Ends the process as a power cut does, and waits until it is gone.
    pub fn kill9(&self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// SIGSTOP: the process stands still and does not know it.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on where it stood.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM: it is asked to end.
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

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.lock().try_wait().expect("the host can be waited for")
    }

    /// The processes that it has started and that have not ended.
    pub fn children(&self) -> Vec<Pid> {
        let folder = format!("/proc/{}/task", self.pid());
        let tasks = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("cannot read {folder}: {error}"));
        // A thread that was there a moment ago may have ended.
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

    /// Where each of its open files leads, as the kernel writes it.
    pub fn open_files(&self) -> Vec<String> {
        let folder = format!("/proc/{}/fd", self.pid());
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("cannot read {folder}: {error}"));
        // What was open a moment ago may be closed.
        let links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        links.map(|link| link.to_string_lossy().into_owned()).collect()
    }

    /// CPU time used so far, by all threads, those that ended included.
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
        // Held, so that the process cannot be waited for, and its id given to another, in between.
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
            // Both fail only for a process that has ended already.
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

/// One of the host's other commands in a folder, to be run as a test needs it.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = eventstream(folder);
    command.args(arguments);
    command
}

fn eventstream(folder: &Path) -> Command {
    let mut command = Command::new(layout::binary());
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVENTSTREAM_")) {
        command.env_remove(name);
    }
    command
}

fn pid_of(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process has an id")
}

/// The lines that a process printed.
#[derive(Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Lines {
    fn read(self: &Arc<Self>, pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<()> {
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
    fn wait_for(&self, text: &str, child: &mut Child) -> Option<String> {
        let begun = Instant::now();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(rest) = lines.iter().find_map(|line| line.strip_prefix(text)) {
                return rest.split_whitespace().next().map(str::to_owned);
            }
            if child.try_wait().expect("the host can be waited for").is_some() {
                return None;
            }
            // A start may compile CPython, beside tests that leave the compiler little of the machine.
            if begun.elapsed() > 4 * PATIENCE {
                let _ = child.kill();
                panic!("the host neither listens nor ends; it said:\n{}", lines.join("\n"));
            }
            let waited = self.changed.wait_timeout(lines, Duration::from_millis(50));
            lines = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(lines, _)| lines);
        }
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
