//! Hosts and their store: three hosts on one Redis, each behind a proxy of its own, or one host on a directory. Redis, or
//! the one host, runs on a [`Machine`] whose power can be cut.
//!
//! Each host has a supervisor thread that starts it again whenever it ends, even while the store is away. A host that ends
//! without having been killed is a finding, because a host must survive every fault of its store.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use eventstream_tests::client::Client;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions};
use eventstream_tests::layout;
use eventstream_tests::machine::Machine;
use eventstream_tests::memory::MemoryShortage;
use eventstream_tests::proxy::Proxy;
use eventstream_tests::store::{Broker, Store, embedded_url};
use fastrand::Rng;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// The plugin whose events multiply, and their type.
pub const MULTIPLIER: &str = "multiplier";
/// How many hosts share a store that can be shared.
const HOSTS: usize = 3;
/// The lease: short, so that many leases end in a run.
pub const LEASE: Duration = Duration::from_millis(1_200);
/// The most attempts at an event.
pub const MAX_ATTEMPTS: usize = 4;
/// The plugins of each host, and the types of the one that handles nearly everything.
pub const PLUGINS: [&str; 3] = ["quick", "slow", MULTIPLIER];
const QUICK_TYPES: &str = r#"types = ["ok", "flaky", "coin", "hopeless", "rejected", "parent", "child", "count"]"#;
/// The exit code of a host that cannot reach its store at its start.
const STORE_AWAY: i32 = 3;
/// The exit code of a host whose store may lose accepted events, and the beginning of the command that repairs the store.
const STORE_UNSAFE: (i32, &str) = (2, "CONFIG SET");
/// What a program prints when an allocation fails.
const NO_MEMORY: &str = "memory allocation of ";

/// A deployment under test.
pub struct Deployment {
    /// The store.
    pub store: Store,
    /// The hosts.
    pub places: Vec<Arc<HostSlot>>,
    /// What the store runs on.
    pub machine: Arc<Machine>,
    /// How many multiplying events the senders must still send.
    multiplications: AtomicU32,
    /// Whether clients stop in the middle of their requests.
    pub clients_stand_still: AtomicBool,
    keepers: Vec<JoinHandle<()>>,
}

/// One host of the deployment. The supervisor starts a new process whenever one ends.
pub struct HostSlot {
    /// The readable part of the host's name among consumers.
    pub name: String,
    /// The proxy between this host and Redis.
    pub wire: Option<Proxy>,
    /// The machine of a host with an embedded store, and its disk.
    machine: Option<(Arc<Machine>, PathBuf)>,
    options: HostOptions,
    plugins: PluginsDir,
    /// The compiled code, which all processes of this host use.
    _kept: TempDir,
    host: Mutex<Option<Arc<Host>>>,
    power_cut: Mutex<Option<Rng>>,
    was_killed: AtomicBool,
    is_over: AtomicBool,
    starts: AtomicU32,
    findings: Mutex<Vec<String>>,
}

impl Deployment {
    /// Starts everything on a machine.
    pub fn start(broker: Broker, machine: Machine, mutant: Option<&str>) -> Self {
        let machine = Arc::new(machine);
        let store = broker.start_on(&machine);
        let hosts = if broker.is_shared() { HOSTS } else { 1 };
        let places: Vec<Arc<HostSlot>> = (0..hosts).map(|n| Arc::new(place(n, &store, &machine, mutant))).collect();
        let keepers = places.iter().map(|place| {
            let place = place.clone();
            std::thread::spawn(move || place.keep())
        });
        let multiplications = AtomicU32::new(0);
        let clients_stand_still = AtomicBool::new(false);
        Self { store, keepers: keepers.collect(), places, machine, multiplications, clients_stand_still }
    }

    /// Orders a multiplying event from any sender.
    pub fn multiply(&self) {
        self.multiplications.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes one order of [`Self::multiply`], if there is one.
    pub fn wants_multiplication(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.multiplications.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }

    /// The URL of this host, if it runs.
    pub fn url(&self, place: usize) -> Option<String> {
        self.places[place].running().map(|host| host.url().to_owned())
    }

    /// A client of any running host.
    pub fn client(&self) -> Option<Client> {
        (0..self.places.len()).find_map(|place| self.url(place)).map(|url| Client::new(&url))
    }

    /// Cuts the power of the machine, and starts it again.
    ///
    /// # Panics
    /// Redis does not start again.
    pub fn cut_power(&self, mut rng: Rng) {
        match &self.store {
            Store::Redis(server) => {
                server.kill9();
                self.machine.cut_power(server.directory(), &mut rng);
                self.store.crash();
            }
            Store::Embedded(_) => self.places[0].cut_power(rng),
        }
    }

    /// Whether Redis has rewritten the log of its last start, whose end may be half a transaction. True for an embedded store.
    pub fn log_is_whole(&self) -> bool {
        let Store::Redis(server) = &self.store else { return true };
        let Ok(facts) = server.command::<String>(&["INFO", "persistence"]) else { return false };
        let is = |fact: &str| facts.lines().any(|line| line == fact);
        !is("aof_rewrites:0") && is("aof_rewrite_in_progress:0") && is("aof_rewrite_scheduled:0")
    }

    /// Frees the disk, and starts Redis again if it ended because the disk was full.
    ///
    /// # Panics
    /// Redis does not start again.
    pub fn free_disk(&self) {
        self.machine.fill_disk(false);
        if let Store::Redis(server) = &self.store
            && !server.is_running()
        {
            self.store.crash();
        }
    }

    /// The proxies between hosts and store.
    pub fn wires(&self) -> impl Iterator<Item = &Proxy> {
        self.places.iter().filter_map(|place| place.wire.as_ref())
    }

    /// The defects of the hosts that the supervisors saw.
    pub fn findings(&self) -> Vec<String> {
        let findings = |place: &Arc<HostSlot>| place.findings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.places.iter().flat_map(findings).collect()
    }

    /// How often hosts were started.
    pub fn starts(&self) -> u32 {
        self.places.iter().map(|place| place.starts.load(Ordering::SeqCst)).sum()
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        for wire in self.wires() {
            wire.thaw();
        }
        for place in &self.places {
            place.is_over.store(true, Ordering::SeqCst);
            place.kill();
        }
        for keeper in self.keepers.drain(..) {
            // A supervisor that panicked has printed the reason.
            let _ = keeper.join();
        }
    }
}

impl HostSlot {
    /// The running process, if there is one.
    pub fn running(&self) -> Option<Arc<Host>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Kills the host. The supervisor starts another.
    pub fn kill(&self) {
        if let Some(host) = self.running() {
            self.was_killed.store(true, Ordering::SeqCst);
            host.kill9();
        }
    }

    /// Removes a plugin from this host, and from its later processes.
    pub fn take_plugin(&self, name: &str) {
        if self.has_plugin(name) {
            self.plugins.remove(name);
        }
    }

    /// Restores the plugins that were removed.
    pub fn give_plugins(&self) {
        for name in PLUGINS.into_iter().filter(|name| !self.has_plugin(name)) {
            self.plugins.put(name, &layout::guest("scripted"));
        }
    }

    /// Replaces a plugin by another build, unless it was removed.
    pub fn swap_plugin(&self, name: &str, component: &[u8]) {
        if self.has_plugin(name) {
            self.plugins.write(&format!("{name}.wasm"), component);
        }
    }

    fn has_plugin(&self, name: &str) -> bool {
        self.plugins.path().join(format!("{name}.wasm")).exists()
    }

    /// Leaves the running host this much more memory, until the shortage ends.
    pub fn starve(&self, left_bytes: u64) -> Option<MemoryShortage> {
        let pid = Pid::from_raw(i32::try_from(self.running()?.pid()).ok()?)?;
        Some(MemoryShortage::starve(pid, left_bytes))
    }

    /// Kills the host, and its disk loses what was not synced. The supervisor starts another.
    fn cut_power(&self, rng: Rng) {
        *self.power_cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(rng);
        self.kill();
    }

    fn keep(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            let power_cut = self.power_cut.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let (Some(mut rng), Some((machine, disk))) = (power_cut, &self.machine) {
                machine.cut_power(disk, &mut rng);
            }
            match Host::try_spawn(&self.options) {
                Ok(host) => self.watch(Arc::new(host)),
                Err(exited) if exited.status.code() == Some(STORE_AWAY) => {}
                Err(exited) if is_refused(exited.status, &exited.output) => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(exited) => self.find(format!("did not start ({}):\n{}", exited.status, exited.output)),
            }
        }
    }

    fn watch(&self, host: Arc<Host>) {
        self.starts.fetch_add(1, Ordering::SeqCst);
        self.was_killed.store(false, Ordering::SeqCst);
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = Some(host.clone());
        let status = loop {
            if let Some(status) = host.exited() {
                break status;
            }
            if self.is_over.load(Ordering::SeqCst) {
                self.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let output = host.output();
        if !self.was_killed.load(Ordering::SeqCst) && !is_out_of_memory(status, &output) {
            let tail: Vec<&str> = output.lines().rev().take(20).collect();
            self.find(format!("ended by itself ({status}); its last lines, newest first:\n{}", tail.join("\n")));
        }
    }

    fn find(&self, what: String) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(format!("host {} {what}", self.name));
        // A host that fails again and again is reported a few times, not thousands of times.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Whether a host refused to start because its store may lose accepted events.
fn is_refused(status: ExitStatus, output: &str) -> bool {
    status.code() == Some(STORE_UNSAFE.0) && output.contains(STORE_UNSAFE.1)
}

/// Whether a host ended because it got no memory: the kernel killed it, or it aborted.
fn is_out_of_memory(status: ExitStatus, output: &str) -> bool {
    status.signal() == Some(Signal::KILL.as_raw()) || output.contains(NO_MEMORY)
}

/// A directory with the compiled code of the plugins, filled by a host that is not attacked. With it, hosts that die are
/// back soon even on a busy machine.
fn compiled() -> &'static Path {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let folder = layout::profile_dir().join("chaos-compiled");
        let (store, plugins) = (tempfile::tempdir().unwrap(), PluginsDir::scripted(&["quick"]));
        let options = HostOptions::new(&embedded_url(store.path()), plugins.path());
        drop(Host::spawn(&options.with("plugins.data_dir", folder.display())));
        folder
    })
}

fn place(n: usize, store: &Store, machine: &Arc<Machine>, mutant: Option<&str>) -> HostSlot {
    let plugins = PluginsDir::scripted(&PLUGINS).with_settings("quick", QUICK_TYPES);
    let wire = match store {
        Store::Redis(server) => Some(Proxy::start(server.address()).unwrap()),
        Store::Embedded(_) => None,
    };
    let url = wire.as_ref().map_or_else(|| store.url(), Proxy::redis_url);
    let name = format!("host-{n}");
    let kept = tempfile::tempdir().unwrap();
    let is_copied = Command::new("cp").arg("-a").arg(compiled().join(".")).arg(kept.path()).status().unwrap();
    assert!(is_copied.success());
    let mut options = HostOptions::new(&url, plugins.path())
        .with("consumer.name", &name)
        .with("consumer.lease_ms", LEASE.as_millis())
        .with("consumer.concurrency", 8)
        .with("retry.max_attempts", MAX_ATTEMPTS)
        .with("retry.initial_ms", 100)
        .with("retry.max_ms", 1_000)
        .with("broker.max_waiting", 2_000)
        .with("plugins.data_dir", kept.path().display())
        .with("log.level", "warn");
    let machine = match store {
        Store::Redis(_) => None,
        Store::Embedded(folder) => Some((machine.clone(), folder.path().to_owned())),
    };
    if let Some((machine, disk)) = &machine {
        for (name, value) in machine.variables(disk) {
            options = options.variable(&name, &value);
        }
    }
    if let Some(mutant) = mutant {
        options = options.with("test.mutant", mutant);
    }
    HostSlot {
        name,
        wire,
        machine,
        options,
        plugins,
        _kept: kept,
        host: Mutex::new(None),
        power_cut: Mutex::new(None),
        was_killed: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        starts: AtomicU32::new(0),
        findings: Mutex::new(Vec::new()),
    }
}
