//! Opens the stores that the configuration names: for a server, and to export, import and back up.
//!
//! Reading a store writes nothing to it. An embedded store may be in use meanwhile, and a Redis may have settings with which
//! no server would start.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::error::Error;
use crate::broker::embedded::{self, EmbeddedBroker};
use crate::broker::redis::{self, RedisBroker};
use crate::broker::{AuditAction, AuditNote, Broker, SnapshotReader};
use crate::config::Config;
use crate::shutdown::TaskGroup;
use crate::transfer::{self, ExportNotice, TransferCounts};

/// The longest time that closing a broker may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the broker of a URL: `embedded:DIRECTORY`, or a Redis.
///
/// # Errors
/// [`Error::Unreachable`] or [`Error::Refused`], with the reason.
pub(super) async fn open_broker(config: &Config, tasks: &TaskGroup) -> Result<Arc<dyn Broker>, Error> {
    let (url, options) = (config.broker_url.as_str(), config.broker.clone());
    if let Some(directory) = url.strip_prefix("embedded:") {
        let (directory, tasks) = (PathBuf::from(directory), tasks.clone());
        let opened = tokio::task::spawn_blocking(move || EmbeddedBroker::open(&directory, options, &tasks)).await;
        return Ok(opened.context("the embedded store was not opened")??);
    }
    #[cfg(feature = "test-util")]
    if let Some(mutant) = mutant()? {
        return Ok(RedisBroker::open_mutant(url, options, mutant, tasks).await?);
    }
    Ok(RedisBroker::open(url, options, tasks).await?)
}

/// The guarantee to break, in a build for tests only.
#[cfg(feature = "test-util")]
fn mutant() -> anyhow::Result<Option<crate::broker::redis::testing::BrokerMutant>> {
    match std::env::var("EVENTSTREAM_TEST_MUTANT") {
        Ok(name) => Ok(Some(name.parse()?)),
        Err(_) => Ok(None),
    }
}

/// Closes a broker, so that the store forgets this consumer. Returns `false` if that failed or took too long: the other hosts
/// then forget it when its lease ends.
pub(super) async fn close_broker(broker: &dyn Broker) -> bool {
    matches!(tokio::time::timeout(CLOSE_TIMEOUT, broker.close()).await, Ok(Ok(())))
}

/// Writes a store's content to `out`, so that another store can continue with it. Blocks the thread while it writes.
///
/// `moved` counts what was written, even if the export fails. `notify` gets each notice and the number of events at the
/// beginning.
///
/// # Errors
/// The store cannot be read or `out` cannot be written. Begin again.
pub async fn export(
    config: &Config,
    out: &mut dyn Write,
    moved: &mut TransferCounts,
    notify: &mut dyn FnMut(ExportNotice<'_>, u64),
) -> Result<(), Error> {
    let mut snapshot = open_snapshot(config).await?;
    let expected = snapshot.expected_events();
    Ok(transfer::export(&mut *snapshot, out, moved, &mut |notice| notify(notice, expected)).await?)
}

/// Writes the content of an export to a store. Blocks the thread while it reads.
///
/// `moved` counts what was imported, even if the import fails. `progress` gets the bytes read so far.
///
/// # Errors
/// The store cannot be written or `input` cannot be read. Begin again: items that the store already has are recognized.
pub async fn import(
    config: &Config,
    input: &mut dyn BufRead,
    moved: &mut TransferCounts,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let tasks = TaskGroup::new();
    let broker = open_broker(config, &tasks).await?;
    let imported = transfer::import(&*broker, &*broker, input, moved, progress).await;
    note_import(&*broker, moved, imported.is_ok()).await;
    if !close_broker(broker.as_ref()).await {
        tracing::debug!("the broker did not close in time; other hosts forget this consumer when its lease ends");
    }
    drop(broker);
    tasks.stop_token().cancel();
    tasks.ended().await;
    Ok(imported?)
}

/// Notes in the audit what an import changed. If that fails, a line of the log says it.
async fn note_import(broker: &dyn Broker, moved: &TransferCounts, is_whole: bool) {
    let count = moved.events + moved.failed + moved.keys + moved.state;
    if count == 0 {
        return;
    }
    let outcome = if is_whole { "done" } else { "interrupted" };
    let note = AuditNote::new(AuditAction::ImportStore, "command-line", "store");
    let note = AuditNote { count: Some(count), outcome: outcome.to_owned(), ..note };
    if let Err(error) = broker.write_audit(&note).await {
        tracing::error!("the import is not in the audit: {error}");
    }
}

/// Copies an embedded store to a directory that has none. The store may be in use. `progress` gets the bytes copied so far
/// and the bytes in all.
///
/// # Errors
/// [`Error::Refused`] if the broker is not embedded or the directory holds a store. Otherwise reading or writing failed.
pub async fn backup(
    config: &Config,
    destination: &Path,
    progress: impl FnMut(u64, u64) + Send + 'static,
) -> Result<(), Error> {
    let Some(directory) = config.broker_url.as_str().strip_prefix("embedded:") else {
        return Err(Error::Refused(format!(
            "a Redis makes its own backups: run `redis-cli -u {} --rdb eventstream.rdb`, or BGSAVE and copy dump.rdb; \
             `eventstream export` writes what can go on in any broker",
            config.broker_url
        )));
    };
    refuse_file(Path::new(directory))?;
    let (store, place) = (Path::new(directory).to_owned(), destination.to_owned());
    let copied = tokio::task::spawn_blocking(move || embedded::backup(&store, &place, progress)).await;
    copied.context("the store was not copied")?.map_err(|error| match Error::from(error) {
        Error::Failed(error) => Error::Failed(error.context(format!("no copy in {}", destination.display()))),
        other => other,
    })
}

/// Refuses a path to a file. A directory that is missing is reported when the store is opened.
fn refuse_file(directory: &Path) -> Result<(), Error> {
    if directory.is_dir() || !directory.exists() {
        return Ok(());
    }
    Err(Error::Refused(format!("{directory:?} is a file: a store is a directory, given as embedded:DIRECTORY")))
}

async fn open_snapshot(config: &Config) -> Result<Box<dyn SnapshotReader>, Error> {
    let url = config.broker_url.as_str();
    match url.strip_prefix("embedded:") {
        Some(directory) => {
            refuse_file(Path::new(directory))?;
            let directory = Path::new(directory).to_owned();
            let opened = tokio::task::spawn_blocking(move || embedded::snapshot(&directory)).await;
            Ok(opened.context("the embedded store was not opened")??)
        }
        None => Ok(redis::snapshot(url, config.broker.clone()).await?),
    }
}
