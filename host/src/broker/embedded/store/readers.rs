//! The readers: connections that see the last commit. Readers and the writer do not wait for each other.
//!
//! Reads run on the runtime's threads for blocking work, a few at a time. The connections are opened together with the
//! store, so reads work even when the process has run out of descriptors.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::Semaphore;

use crate::broker::Error;

use super::connection::{ConnectionPurpose, connect, open_files};
use super::directory::StoreDirectory;
use super::fault::{SqliteFault, StoreCondition};

/// The most reads at the same time. Each has a connection with a page cache of 2 MiB.
const MAX_READS: usize = 4;

/// The idle connections, and the permits to use one. Clones share them.
#[derive(Clone)]
pub(in crate::broker::embedded) struct ReaderPool {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    condition: StoreCondition,
    directory: Arc<StoreDirectory>,
}

impl ReaderPool {
    /// Opens the connections.
    ///
    /// # Errors
    /// The database cannot be opened again.
    pub(in crate::broker::embedded) fn open(
        directory: Arc<StoreDirectory>,
        condition: StoreCondition,
    ) -> rusqlite::Result<Self> {
        let readers = Self { idle: Arc::default(), permits: Arc::new(Semaphore::new(MAX_READS)), condition, directory };
        let idle = (0..MAX_READS).map(|_| readers.connect()).collect::<Result<_, _>>()?;
        *readers.lock() = idle;
        Ok(readers)
    }

    /// Runs a read. If the future is dropped, a read that has begun goes on and its result is dropped.
    pub(in crate::broker::embedded) async fn read<T, R>(&self, read: R) -> Result<T, Error>
    where
        T: Send + 'static,
        R: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::refused("the store is closed"))?;
        let readers = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let result = readers.read_now(read);
            drop(permit);
            result
        });
        reading.await.unwrap_or_else(|_| Err(Error::refused("reading the store failed")))
    }

    /// Closes the idle connections. No read can begin afterwards.
    pub(in crate::broker::embedded) fn close(&self) {
        self.permits.close();
        self.lock().clear();
    }

    fn read_now<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        let result = self.take_idle().and_then(|db| {
            let result = read(&db);
            self.lock().push(db);
            result
        });
        result.map_err(|error| {
            if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) {
                // Most likely the process has no descriptor left. The database is not at fault: do not fail the store.
                return Error::refused(format!("the store cannot be read at the moment: {error}"));
            }
            let fault = SqliteFault::classify(&error);
            self.condition.note(&fault);
            fault.answer()
        })
    }

    /// Takes an idle connection. There is one for each permit, unless a read panicked.
    fn take_idle(&self) -> rusqlite::Result<Connection> {
        let idle = self.lock().pop();
        idle.map_or_else(|| self.connect(), Ok)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let db = connect(&self.directory.database(), ConnectionPurpose::Read)?;
        db.pragma_update(None, "query_only", true)?;
        open_files(&db)?;
        Ok(db)
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock()
    }
}
