//! Faults of the database, and whether the store may go on after them.
//!
//! An input or output error is final. After a failed fsync the content of the disk is unknown, and a second fsync may
//! succeed although data is missing. The store then refuses every call until a restart. A full disk is not final, since
//! SQLite rolls back the transaction that did not fit.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::broker::{Durability, Error, StoreHealth};

/// The meaning of an SQLite error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::broker::embedded) enum SqliteFault {
    /// The disk is full. Nothing was written.
    Full(String),
    /// Another program locks the file. Nothing was written.
    Busy(String),
    /// The content of the disk is unknown or damaged.
    Final(String),
    /// This transaction is impossible. Nothing was written.
    Refused(String),
}

impl SqliteFault {
    /// Classifies an error.
    pub(in crate::broker::embedded) fn classify(error: &rusqlite::Error) -> Self {
        let said = error.to_string();
        let extended = match error {
            rusqlite::Error::SqliteFailure(failure, _) => failure.extended_code,
            // Our statements fit our strict tables, so a mismatch means that the file was changed.
            rusqlite::Error::SqlInputError { .. }
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::FromSqlConversionFailure(..) => {
                return Self::Final(format!("the database is damaged: {said}"));
            }
            _ => return Self::Refused(said),
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(said),
            // The shared-memory index of the log is a file, and it could not grow.
            _ if extended == ffi::SQLITE_IOERR_SHMSIZE => Self::Full(said),
            _ if extended == ffi::SQLITE_ERROR => Self::Final(format!("the database is damaged: {said}")),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(said),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly,
            ) => Self::Final(said),
            _ => Self::Refused(said),
        }
    }

    /// The error for a job that was rolled back because of the fault.
    pub(in crate::broker::embedded) fn answer(&self) -> Error {
        match self {
            Self::Full(said) => Error::NoRoom(said.clone()),
            Self::Busy(said) => Error::refused(format!("another program holds the database: {said}")),
            Self::Final(said) => Error::unknown(said.clone()),
            Self::Refused(said) => Error::Misconfigured(format!("the database refused a step: {said}")),
        }
    }
}

/// The error for two places of the database that contradict each other.
pub(in crate::broker::embedded) fn contradiction(words: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        ffi::Error::new(ffi::SQLITE_CORRUPT),
        Some(format!("the database is damaged: {words}")),
    )
}

/// Whether the store works. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(in crate::broker::embedded) struct StoreCondition(Arc<Mutex<ConditionState>>);

#[derive(Debug, Default)]
struct ConditionState {
    /// Why the store failed. Only a restart clears it.
    failed: Option<String>,
    /// Why the disk has no room, until it has.
    no_room: Option<String>,
    /// Why nothing can be written while another program locks the database.
    locked: Option<String>,
}

impl StoreCondition {
    /// Records a fault, and logs the first of its kind.
    pub(in crate::broker::embedded) fn note(&self, fault: &SqliteFault) {
        let mut state = self.0.lock();
        match fault {
            SqliteFault::Final(said) if state.failed.is_none() => {
                let reason = format!("the embedded store failed and must be started again: {said}");
                tracing::error!("{reason}");
                state.failed = Some(reason);
            }
            SqliteFault::Full(said) if state.no_room.is_none() => {
                tracing::error!("the embedded store has no room left, nothing is accepted: {said}");
                state.no_room = Some(format!("the store has no room left: {said}"));
            }
            SqliteFault::Final(_) | SqliteFault::Full(_) | SqliteFault::Busy(_) | SqliteFault::Refused(_) => {}
        }
    }

    /// Records that another program locks the database, so that nothing can be written.
    pub(in crate::broker::embedded) fn set_locked(&self, said: &str) {
        let mut state = self.0.lock();
        if state.locked.is_none() {
            let reason = format!(
                "another program holds the database of the embedded store, and nothing is accepted or handled until it \
                 lets it go: end it, perhaps a sqlite3 ({said})"
            );
            tracing::error!("{reason}");
            state.locked = Some(reason);
        }
    }

    /// Records that the database can be written to.
    pub(in crate::broker::embedded) fn set_unlocked(&self) {
        let mut state = self.0.lock();
        if state.locked.take().is_some() {
            tracing::info!("the database of the embedded store is free again");
        }
    }

    /// Records that the disk has room again.
    pub(in crate::broker::embedded) fn set_has_room(&self) {
        let mut state = self.0.lock();
        if state.no_room.take().is_some() {
            tracing::info!("the embedded store has room again");
        }
    }

    /// Whether the last write found no room.
    pub(in crate::broker::embedded) fn lacks_room(&self) -> bool {
        self.0.lock().no_room.is_some()
    }

    /// Checks that the store has not failed.
    ///
    /// # Errors
    /// The store has failed: the error for every call.
    pub(in crate::broker::embedded) fn usable(&self) -> Result<(), Error> {
        match &self.0.lock().failed {
            None => Ok(()),
            Some(reason) => Err(Error::refused(reason.clone())),
        }
    }

    /// The health of the store.
    pub(in crate::broker::embedded) fn health(&self) -> StoreHealth {
        let state = self.0.lock();
        let trouble = state.failed.as_ref().or(state.locked.as_ref()).or(state.no_room.as_ref()).cloned();
        StoreHealth {
            durability: Durability::Fsync,
            warning: None,
            accepting: trouble.is_none(),
            handling: state.failed.is_none() && state.locked.is_none(),
            trouble,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn faults_are_final_or_pass_as_their_codes_say() {
        for code in [
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_READ,
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_NOTADB,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_ERROR,
        ] {
            assert!(matches!(SqliteFault::classify(&failure(code)), SqliteFault::Final(_)), "{code}");
        }
        let SqliteFault::Final(said) = SqliteFault::classify(&contradiction("2 and 3".into())) else {
            panic!("it is final")
        };
        assert_eq!(said, "the database is damaged: 2 and 3");
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
            assert!(matches!(SqliteFault::classify(&failure(code)), SqliteFault::Full(_)), "{code}");
        }
        assert!(matches!(SqliteFault::classify(&failure(ffi::SQLITE_BUSY)), SqliteFault::Busy(_)));
        for error in [failure(ffi::SQLITE_TOOBIG), failure(ffi::SQLITE_CONSTRAINT), rusqlite::Error::InvalidQuery] {
            assert!(matches!(SqliteFault::classify(&error), SqliteFault::Refused(_)), "{error}");
        }
    }

    #[test]
    fn a_final_fault_stays_and_a_lack_of_room_passes() {
        let condition = StoreCondition::default();
        assert_eq!(condition.health().trouble, None);
        condition.note(&SqliteFault::Full("disk".into()));
        assert!(condition.health().trouble.is_some() && condition.usable().is_ok());
        condition.set_has_room();
        assert_eq!(condition.health(), StoreHealth::good(Durability::Fsync));
        condition.set_locked("locked");
        condition.note(&SqliteFault::Full("disk".into()));
        assert!(condition.health().trouble.is_some_and(|trouble| trouble.contains("sqlite3")));
        assert!(!condition.health().accepting && !condition.health().handling);
        condition.set_unlocked();
        assert!(!condition.health().accepting && condition.health().handling, "waiting events are handled");
        condition.note(&SqliteFault::Final("fsync".into()));
        condition.set_has_room();
        assert!(condition.health().trouble.is_some_and(|trouble| trouble.contains("fsync")));
        assert!(condition.usable().is_err());
    }
}
