//! Export, import and backup: opens the stores that [`crate::transfer`] reads and writes.
//!
//! Reading a store writes nothing to it. An embedded store may be in use meanwhile, and a Redis may have settings with which
//! no server would start.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::Context;

use crate::broker::{SnapshotReader, embedded, redis};
use crate::config::Config;
use crate::shutdown::TaskGroup;
use crate::transfer::{self, ExportNotice, TransferCounts};

use super::error::Error;
use super::open_broker::{close_broker, open_broker};

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
    if !close_broker(broker.as_ref()).await {
        tracing::debug!("the broker did not close in time; other hosts forget this consumer when its lease ends");
    }
    drop(broker);
    tasks.stop_token().cancel();
    tasks.ended().await;
    Ok(imported?)
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
