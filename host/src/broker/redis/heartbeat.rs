//! Shows that this consumer is alive and what it serves, and observes the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::client::StoreClient;
use super::codec::RecordVersion;
use super::connection::{CallFailure, reply};
use super::lanes::LaneDirectory;
use super::peers::{OwnCoverage, PeerReports, PeerTable, missing_features};
use super::process_identity::ProcessIdentity;
use crate::broker::{ConsumerCoverage, Error, Lane, PeerCoverage};

/// The heartbeat of this consumer, and what it knows of the others.
pub(super) struct Heartbeat {
    client: Arc<StoreClient>,
    lanes: Arc<LaneDirectory>,
    lease: Duration,
    identity: ProcessIdentity,
    own: ArcSwap<OwnCoverage>,
    peers: Mutex<PeerTable>,
    /// When all consumers were last read.
    peers_read_at: Mutex<Option<Instant>>,
    reports: Mutex<PeerReports>,
    /// The earlier hosts that the log names already.
    warned: Mutex<BTreeSet<String>>,
    /// The sum of the valid reports.
    peer_coverage: ArcSwap<PeerCoverage>,
    /// The live consumers, this one included, when all were last read.
    live_consumers: AtomicU64,
}

impl Heartbeat {
    pub(super) fn new(client: Arc<StoreClient>, lanes: Arc<LaneDirectory>, lease_ms: u64) -> Self {
        Self {
            client,
            lanes,
            lease: Duration::from_millis(lease_ms),
            identity: ProcessIdentity::own(),
            own: ArcSwap::default(),
            peers: Mutex::default(),
            peers_read_at: Mutex::default(),
            reports: Mutex::default(),
            warned: Mutex::default(),
            peer_coverage: ArcSwap::default(),
            live_consumers: AtomicU64::new(1),
        }
    }

    /// Stores what this consumer serves from now on.
    ///
    /// # Errors
    /// The store was not reached. The next heartbeat stores it as well.
    pub(super) async fn announce(&self, served: ConsumerCoverage) -> Result<(), Error> {
        let own = OwnCoverage::new(served).map_err(|error| Error::Misconfigured(error.to_string()))?;
        self.own.store(Arc::new(own));
        Ok(self.beat().await?)
    }

    /// What the others serve, as of the last heartbeat.
    pub(super) fn peer_coverage(&self) -> Arc<PeerCoverage> {
        self.peer_coverage.load_full()
    }

    /// The live consumers, this one included. A dead one counts until its heartbeat has stood still for a lease.
    pub(super) fn live_consumers(&self) -> u64 {
        self.live_consumers.load(Ordering::Relaxed)
    }

    /// True if other consumers serve this lane and this one does not.
    pub(super) fn is_served_only_by_peers(&self, lane: &Lane) -> bool {
        self.peer_coverage.load().served().has_lane(lane) && !self.own.load().served.has_lane(lane)
    }

    /// The other consumers whose process is known to be gone.
    pub(super) fn consumers_without_process(&self) -> Vec<String> {
        self.others(self.peers.lock().without_process())
    }

    /// The other consumers that are dead.
    pub(super) fn dead_consumers(&self) -> Vec<String> {
        self.others(self.peers.lock().dead(self.lease))
    }

    fn others(&self, mut names: Vec<String>) -> Vec<String> {
        names.retain(|name| *name != self.client.consumer);
        names
    }

    /// Removes a consumer from the store if it holds no entry; false if it holds one.
    pub(super) async fn reap(&self, consumer: &str) -> Result<bool, CallFailure> {
        let client = &self.client;
        let (_, reply) = self
            .lanes
            .call_with_all(|known| {
                client
                    .script_call(&client.scripts.reap)
                    .number(known.set_size)
                    .number(known.lanes.len())
                    .text(consumer)
                    .lane_keys(&client.keys, &known.lanes)
            })
            .await?;
        let is_reaped = reply::text(reply)? == "DONE";
        if is_reaped {
            self.peers.lock().remove(consumer);
        }
        Ok(is_reaped)
    }

    /// Beats once. Four times in a lease, and after any consumer changed its coverage, also reads all consumers.
    pub(super) async fn beat(&self) -> Result<(), CallFailure> {
        let client = &self.client;
        let must_read = self.is_reading_due(Instant::now());
        let lanes = self.lanes.known().lanes.clone();
        let known_changes = self.reports.lock().changes.clone();
        let call = client
            .script_call(&client.scripts.beat)
            .lane_keys(&client.keys, &lanes)
            .text(&client.consumer)
            .text(&self.identity.to_text())
            .text(&self.own.load().text)
            .text(&known_changes)
            .number(lanes.len())
            .number(u8::from(must_read));
        let [fields, names, changes] = reply::tuple(client.call(&call).await?)?;
        let changes = reply::text(changes)?;
        if !must_read && changes == known_changes {
            self.update_coverage(changes, None);
            return Ok(());
        }
        let mut consumers: BTreeMap<String, (Option<i64>, Option<String>)> = reply::array(names)?
            .into_iter()
            .map(|name| Ok((reply::text(name)?, (None, None))))
            .collect::<Result<_, _>>()?;
        let mut reports = BTreeMap::new();
        for (field, value) in reply::pairs(fields)? {
            let field = reply::text(field)?;
            if let Some(name) = field.strip_prefix("c:") {
                consumers.entry(name.to_owned()).or_default().0 = Some(reply::int(&value)?);
            } else if let Some(name) = field.strip_prefix("i:") {
                consumers.entry(name.to_owned()).or_default().1 = reply::text(value).ok();
            } else if let Some((name, text)) = field.strip_prefix("s:").zip(reply::text(value).ok()) {
                reports.insert(name.to_owned(), text);
            }
        }
        let consumers = consumers.into_iter().map(|(name, (heartbeat, identity))| (name, heartbeat, identity));
        self.peers.lock().observe(Instant::now(), self.lease / 2, &self.identity, consumers);
        self.warn_of_earlier_hosts(&reports);
        self.update_coverage(changes, Some(&reports));
        Ok(())
    }

    /// Warns once of each host that lets anyone in or handles what is paused, since it does not know better.
    fn warn_of_earlier_hosts(&self, texts: &BTreeMap<String, String>) {
        let beating = self.others(self.peers.lock().beating(self.lease));
        let mut warned = self.warned.lock();
        warned.retain(|name| beating.contains(name));
        for name in beating {
            let missing = missing_features(texts.get(&name).map(String::as_str));
            if !missing.is_empty() && warned.insert(name.clone()) {
                let missing = missing.join(" and no ");
                tracing::warn!(
                    "the host {name} is of an earlier version and knows no {missing}: it may serve clients without a key \
                     and handle events of paused plugins; stop it, and start it with this version"
                );
            }
        }
    }

    /// True if all consumers were last read a quarter of a lease ago or earlier. Then notes that they are read now.
    fn is_reading_due(&self, now: Instant) -> bool {
        let mut read_at = self.peers_read_at.lock();
        let is_due = read_at.is_none_or(|read_at| now.duration_since(read_at) >= self.lease / 4);
        if is_due {
            *read_at = Some(now);
        }
        is_due
    }

    fn write_records_in(&self, version: RecordVersion) {
        if self.client.set_record_version(version) != version {
            match version {
                RecordVersion::Json => tracing::info!(
                    "a host of an earlier version serves this store: new records are written as it reads them"
                ),
                RecordVersion::Binary => tracing::debug!("new records are written in the latest format"),
            }
        }
    }

    /// Updates the peers' coverage, with the reports of all consumers if these were read.
    fn update_coverage(&self, changes: String, texts: Option<&BTreeMap<String, String>>) {
        let now = Instant::now();
        let mut reports = self.reports.lock();
        if let Some(texts) = texts {
            let mut peers = self.peers.lock().alive(self.lease);
            peers.retain(|(name, _)| *name != self.client.consumer);
            self.live_consumers.store(peers.len() as u64 + 1, Ordering::Relaxed);
            reports.observe(now, peers, texts);
        }
        reports.changes = changes;
        let coverage = reports.summarize(now, self.lease);
        // Until all consumers were read, any of them may be an earlier host.
        if !reports.changes.is_empty() {
            self.write_records_in(reports.record_version());
        }
        if coverage != **self.peer_coverage.load() {
            self.peer_coverage.store(Arc::new(coverage));
        }
    }
}
