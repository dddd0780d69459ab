//! What this host knew of its store when it last ran, to notice data that was lost meanwhile (G11).
//!
//! The knowledge is a file in the data directory. A store without the file serves as well: only that one start compares
//! nothing. So errors are warnings, and the file is not forced to the disk.

use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::connection::{StoreMark, TroubleBoard};
use crate::broker::BrokerOptions;

/// A store as a host knew it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownStore {
    address: String,
    pub(super) epoch: String,
    pub(super) accepted: u64,
    /// The replication id of the server, for a person who looks for the lost events.
    pub(super) replication_id: String,
    has_replicas: bool,
    /// Whether the store has or had API keys. Files of earlier versions do not say.
    #[serde(default)]
    has_keys: bool,
}

impl KnownStore {
    /// True if the store at `address` has lost data since it was known. A store of another epoch at another address is
    /// another store.
    pub(super) fn is_lost(&self, address: &str, found: &StoreMark) -> bool {
        if *found.epoch == *self.epoch { self.accepted > found.accepted } else { self.address == address }
    }

    /// True if the store at `address` is known to have had API keys. `epoch` is its epoch now.
    pub(super) fn had_keys(&self, address: &str, epoch: &str) -> bool {
        self.has_keys && (self.address == address || self.epoch == epoch)
    }

    /// True if the server at `address` is known to have replicas.
    pub(super) fn had_replicas(&self, address: &str) -> bool {
        self.has_replicas && self.address == address
    }
}

/// The file with what this host knows of its store.
pub(super) struct KnownStoreFile {
    /// `None` if nothing is kept.
    path: Option<PathBuf>,
    address: String,
    written: Mutex<Option<KnownStore>>,
}

impl KnownStoreFile {
    /// The file for the store at `address`. Nothing is read yet.
    pub(super) fn new(options: &BrokerOptions, address: &str) -> Self {
        let path = options.data_dir.as_ref().map(|dir| dir.join(format!("redis-{}.json", options.namespace)));
        Self { path, address: address.to_owned(), written: Mutex::default() }
    }

    /// What the last process knew; `None` if nothing is kept.
    pub(super) async fn read(&self) -> Option<KnownStore> {
        let path = self.path.as_ref()?;
        match tokio::fs::read(path).await.map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(known)) => return Some(known),
            Ok(Err(error)) => tracing::warn!("{path:?} cannot be read: {error}; it is written anew"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("{path:?} cannot be read: {error}; is the directory ours? (broker.data_dir)"),
        }
        None
    }

    /// Writes what is known now, if that has changed.
    pub(super) async fn write(
        &self,
        mark: StoreMark,
        replication_id: String,
        has_replicas: bool,
        has_keys: bool,
        troubles: &TroubleBoard,
    ) {
        let Some(path) = self.path.as_ref().filter(|_| !mark.epoch.is_empty()) else { return };
        let (address, epoch) = (self.address.clone(), mark.epoch.to_string());
        let known = KnownStore { address, epoch, accepted: mark.accepted, replication_id, has_replicas, has_keys };
        if self.written.lock().as_ref() == Some(&known) {
            return;
        }
        match replace_file(path, &known).await {
            Ok(()) => *self.written.lock() = Some(known),
            Err(error) => troubles.warn("known store", || {
                format!("{path:?} cannot be written: {error}; a loss of data while this host is down is not noticed (broker.data_dir)")
            }),
        }
    }
}

/// Replaces the file in one step: hosts may share a data directory.
async fn replace_file(path: &PathBuf, known: &KnownStore) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).await?;
    }
    let temporary = path.with_extension(format!("{:016x}.tmp", fastrand::u64(..)));
    let mut text = serde_json::to_vec(known)?;
    text.push(b'\n');
    let written = match tokio::fs::write(&temporary, text).await {
        Ok(()) => tokio::fs::rename(&temporary, path).await,
        Err(error) => Err(error),
    };
    if written.is_err() {
        // Nobody reads a file that is left behind.
        let _ = tokio::fs::remove_file(&temporary).await;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: &str, accepted: u64) -> StoreMark {
        StoreMark { epoch: epoch.into(), accepted }
    }

    #[tokio::test]
    async fn what_was_written_is_read_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let options = BrokerOptions { data_dir: Some(dir.path().join("data")), ..BrokerOptions::default() };
        let troubles = TroubleBoard::new();
        let file = KnownStoreFile::new(&options, "h:1");
        assert_eq!(file.read().await, None);
        file.write(mark("", 0), String::new(), false, false, &troubles).await;
        assert_eq!(file.read().await, None, "no store is known yet");
        file.write(mark("e", 7), "r".into(), true, true, &troubles).await;
        let known = KnownStoreFile::new(&options, "h:1").read().await.unwrap();
        assert_eq!((&*known.epoch, known.accepted, &*known.replication_id), ("e", 7, "r"));
        assert!(known.had_replicas("h:1") && !known.had_replicas("h:2"));
        assert!(known.had_keys("h:1", "f") && known.had_keys("h:2", "e"), "it is the same store");
        assert!(!known.had_keys("h:2", "f"), "it is another store");
        assert_eq!(std::fs::read_dir(dir.path().join("data")).unwrap().count(), 1, "nothing temporary is left");
        let keeps_nothing = KnownStoreFile::new(&BrokerOptions::default(), "h:1");
        keeps_nothing.write(mark("e", 7), String::new(), true, true, &troubles).await;
        assert_eq!(keeps_nothing.read().await, None);
    }

    #[test]
    fn a_store_that_went_back_is_lost_and_another_store_is_not() {
        let known = KnownStore {
            address: "h:1".into(),
            epoch: "e".into(),
            accepted: 7,
            replication_id: String::new(),
            has_replicas: false,
            has_keys: false,
        };
        for (address, epoch, accepted, is_lost) in [
            ("h:1", "e", 7, false),
            ("h:1", "e", 8, false),
            ("h:1", "e", 6, true),
            ("h:2", "e", 6, true),
            ("h:1", "f", 9, true),
            ("h:1", "", 0, true),
            ("h:2", "f", 0, false),
        ] {
            assert_eq!(known.is_lost(address, &mark(epoch, accepted)), is_lost, "{address} {epoch} {accepted}");
        }
    }
}
