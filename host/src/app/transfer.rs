//! Export, import and backup: opens the stores for what [`crate::transfer`] does with them.
//!
//! To read a store is not to serve from it: nothing is written, an embedded one need not be free, and a Redis with
//! settings that may lose data can be left all the same.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::Context;

use crate::broker::embedded::{self, BackupError, SnapshotError};
use crate::broker::{self, SnapshotReader, redis};
use crate::config::Config;
use crate::shutdown::TaskGroup;
use crate::transfer::{self, ExportNotice, TransferCounts};

use super::{Error, GOODBYE, open_broker};

impl From<transfer::Error> for Error {
    fn from(error: transfer::Error) -> Self {
        match error {
            transfer::Error::Store(broker::Error::Unavailable { .. }) => Self::Unreachable(error.to_string()),
            transfer::Error::Store(broker::Error::Misconfigured(_)) => Self::Refused(error.to_string()),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<SnapshotError> for Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::NoStore(_) => Self::Unreachable(error.to_string()),
            SnapshotError::Database { .. } => Self::Refused(error.to_string()),
        }
    }
}

impl From<BackupError> for Error {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::NoStore(_) => Self::Unreachable(error.to_string()),
            BackupError::Taken(_) => Self::Refused(error.to_string()),
            BackupError::UnderWay(_) | BackupError::Write(_) | BackupError::Read(_) => Self::Failed(error.into()),
        }
    }
}

/// Writes everything that another store can go on with. `moved` says what was written, also when this fails, and `tell` is
/// given, beside what is told, how many events there were at the beginning. Writing blocks the thread that this runs on.
///
/// # Errors
/// The store or what is written to. Begin again.
pub async fn export(
    config: &Config,
    out: &mut dyn Write,
    moved: &mut TransferCounts,
    tell: &mut dyn FnMut(ExportNotice<'_>, u64),
) -> Result<(), Error> {
    let mut snapshot = open_snapshot(config).await?;
    let expected = snapshot.expected_events();
    Ok(transfer::export(&mut *snapshot, out, moved, &mut |told| tell(told, expected)).await?)
}

/// Takes over what an export holds. `moved` says what was taken over, also when this fails, and `progress` is told the
/// bytes that were read. Reading blocks the thread that this runs on.
///
/// # Errors
/// The store or what is read. Begin again; what is there already is recognized.
pub async fn import(
    config: &Config,
    input: &mut dyn BufRead,
    moved: &mut TransferCounts,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let tasks = TaskGroup::new();
    let broker = open_broker(config, &tasks).await?;
    let imported = transfer::import(&*broker, &*broker, input, moved, progress).await;
    let closed = tokio::time::timeout(GOODBYE, broker.close()).await;
    if !matches!(closed, Ok(Ok(()))) {
        tracing::debug!("the broker could not be told good-bye; others forget this consumer after its lease");
    }
    drop(broker);
    tasks.stop_token().cancel();
    tasks.ended().await;
    Ok(imported?)
}

/// Copies the embedded store, while it is served or not, to a directory that has none. `progress` is told the bytes that
/// are copied and those that there are.
///
/// # Errors
/// [`Error::Refused`] if the broker is not an embedded one, or the directory holds a store; else the store or the copy.
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

/// A store that is not there may come; what is no directory is a mistake.
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
