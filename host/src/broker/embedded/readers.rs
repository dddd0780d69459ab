//! Connections that only look. They see the last commit and never wait for the writer, nor it for them.
//!
//! Reading happens on the runtime's threads for blocking work, at most a few at a time.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::broker::Error;

use super::directory::Directory;
use super::fault::{Condition, Fault};
use super::schema::{Purpose, connect};

/// The most reads at the same time; each has a connection with a page cache of 2 MiB.
const MAX_READS: usize = 4;

/// The connections that are not in use, and who may use one. Copies share them.
#[derive(Clone)]
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    condition: Condition,
    directory: Arc<Directory>,
}

impl Readers {
    /// No connections yet; they are made as they are needed.
    pub(super) fn new(directory: Arc<Directory>, condition: Condition) -> Self {
        Self { idle: Arc::default(), permits: Arc::new(Semaphore::new(MAX_READS)), condition, directory }
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
            let fault = Fault::of(&error);
            self.condition.note(&fault);
            fault.answer()
        })
    }

    fn connection(&self) -> rusqlite::Result<Connection> {
        if let Some(db) = self.lock().pop() {
            return Ok(db);
        }
        let db = connect(&self.directory.database(), Purpose::Read)?;
        db.pragma_update(None, "query_only", true)?;
        Ok(db)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
