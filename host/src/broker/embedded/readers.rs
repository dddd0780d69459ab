//! Connections that only look. They see the last commit and never wait for the writer, nor it for them.
//!
//! Reading happens on the runtime's threads for blocking work, at most a few at a time. The connections are made when the
//! store is opened, so that it is read as long as it is served, even by a process that has run out of descriptors.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::Semaphore;

use crate::broker::Error;

use super::directory::StoreDirectory;
use super::fault::{SqliteFault, StoreCondition};
use super::schema::{ConnectionPurpose, connect, open_files};

/// The most reads at the same time; each has a connection with a page cache of 2 MiB.
const MAX_READS: usize = 4;

/// The connections that are not in use, and who may use one. Copies share them.
#[derive(Clone)]
pub(super) struct ReaderPool {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    condition: StoreCondition,
    directory: Arc<StoreDirectory>,
}

impl ReaderPool {
    /// Makes the connections.
    ///
    /// # Errors
    /// The database cannot be opened once more.
    pub(super) fn open(directory: Arc<StoreDirectory>, condition: StoreCondition) -> rusqlite::Result<Self> {
        let readers = Self { idle: Arc::default(), permits: Arc::new(Semaphore::new(MAX_READS)), condition, directory };
        let made = (0..MAX_READS).map(|_| readers.connect()).collect::<Result<_, _>>()?;
        *readers.lock() = made;
        Ok(readers)
    }

    /// Reads. If the future is dropped, a read that has begun goes on and is forgotten.
    pub(super) async fn read<T, R>(&self, read: R) -> Result<T, Error>
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

    /// Closes what is idle; nothing can be read afterwards.
    pub(super) fn close(&self) {
        self.permits.close();
        self.lock().clear();
    }

    fn read_now<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        let result = self.connection().and_then(|db| {
            let result = read(&db);
            self.lock().push(db);
            result
        });
        result.map_err(|error| {
            if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) {
                // That says nothing about what is on the disk, and the writer goes on.
                return Error::refused(format!("the store cannot be read at the moment: {error}"));
            }
            let fault = SqliteFault::of(&error);
            self.condition.note(&fault);
            fault.answer()
        })
    }

    /// One that is idle. There is one for each permit, unless a read panicked.
    fn connection(&self) -> rusqlite::Result<Connection> {
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
