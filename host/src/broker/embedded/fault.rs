//! What goes wrong beneath the broker, and whether it may go on after it.
//!
//! An input or output error is final: after a failed fsync nobody knows what is on the disk, and a second one may say
//! that all is well when it is not. The broker then answers everything with the reason until it is started again. A full
//! disk is not final, since SQLite rolls back what did not fit.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::broker::{Durability, Error, StoreHealth};

/// What an error of SQLite means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SqliteFault {
    /// Nothing was written, since there is no room.
    Full(String),
    /// Nothing was written, since another program holds the file.
    Busy(String),
    /// It is not known what is on the disk, or it is damaged.
    Final(String),
    /// Nothing was written, since this one step cannot be done.
    Refused(String),
}

impl SqliteFault {
    /// What an error means.
    pub(super) fn of(error: &rusqlite::Error) -> Self {
        let said = error.to_string();
        let extended = match error {
            rusqlite::Error::SqliteFailure(failure, _) => failure.extended_code,
            // The statements are ours and the tables are strict: what does not fit them is not what was written.
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
            // The index of the log, which is in memory that a file backs, could not grow.
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

    /// The answer to a step that was rolled back because of this.
    pub(super) fn answer(&self) -> Error {
        match self {
            Self::Full(said) => Error::NoRoom(said.clone()),
            Self::Busy(said) => Error::refused(format!("another program holds the database: {said}")),
            Self::Final(said) => Error::unknown(said.clone()),
            Self::Refused(said) => Error::Misconfigured(format!("the database refused a step: {said}")),
        }
    }
}

/// What two places of the database say of the same thing, and differently.
pub(super) fn contradiction(words: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        ffi::Error::new(ffi::SQLITE_CORRUPT),
        Some(format!("the database is damaged: {words}")),
    )
}

/// Whether the broker can be worked with. Copies speak of the same broker.
#[derive(Clone, Debug, Default)]
pub(super) struct StoreCondition(Arc<Mutex<ConditionState>>);

#[derive(Debug, Default)]
struct ConditionState {
    /// Until the broker is started again.
    failed: Option<String>,
    /// Until there is room again.
    no_room: Option<String>,
    /// Until another program lets the database go.
    held: Option<String>,
}

impl StoreCondition {
    /// Takes notice of a fault, with one line in the log when it is news.
    pub(super) fn note(&self, fault: &SqliteFault) {
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

    /// Another program holds the database, so that nothing can be written.
    pub(super) fn held(&self, said: &str) {
        let mut state = self.0.lock();
        if state.held.is_none() {
            let reason = format!(
                "another program holds the database of the embedded store, and nothing is accepted or handled until it \
                 lets it go: end it, perhaps a sqlite3 ({said})"
            );
            tracing::error!("{reason}");
            state.held = Some(reason);
        }
    }

    /// The database can be written to. Costs little when it could before.
    pub(super) fn released(&self) {
        let mut state = self.0.lock();
        if state.held.take().is_some() {
            tracing::info!("no other program holds the database of the embedded store any more");
        }
    }

    /// There is room again.
    pub(super) fn has_room(&self) {
        let mut state = self.0.lock();
        if state.no_room.take().is_some() {
            tracing::info!("the embedded store has room again");
        }
    }

    /// Whether there was no room when last something was to be written.
    pub(super) fn lacks_room(&self) -> bool {
        self.0.lock().no_room.is_some()
    }

    /// The answer to whatever is asked of a broker that failed.
    ///
    /// # Errors
    /// The broker failed, and nothing was done.
    pub(super) fn usable(&self) -> Result<(), Error> {
        match &self.0.lock().failed {
            None => Ok(()),
            Some(reason) => Err(Error::refused(reason.clone())),
        }
    }

    /// What is told to those who ask how the broker is.
    pub(super) fn health(&self) -> StoreHealth {
        let state = self.0.lock();
        let trouble = state.failed.as_ref().or(state.held.as_ref()).or(state.no_room.as_ref()).cloned();
        StoreHealth {
            durability: Durability::Fsync,
            accepting: trouble.is_none(),
            handling: state.failed.is_none() && state.held.is_none(),
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
            assert!(matches!(SqliteFault::of(&failure(code)), SqliteFault::Final(_)), "{code}");
        }
        let SqliteFault::Final(said) = SqliteFault::of(&contradiction("2 and 3".into())) else { panic!("it is final") };
        assert_eq!(said, "the database is damaged: 2 and 3");
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
            assert!(matches!(SqliteFault::of(&failure(code)), SqliteFault::Full(_)), "{code}");
        }
        assert!(matches!(SqliteFault::of(&failure(ffi::SQLITE_BUSY)), SqliteFault::Busy(_)));
        for error in [failure(ffi::SQLITE_TOOBIG), failure(ffi::SQLITE_CONSTRAINT), rusqlite::Error::InvalidQuery] {
            assert!(matches!(SqliteFault::of(&error), SqliteFault::Refused(_)), "{error}");
        }
    }

    #[test]
    fn a_final_fault_stays_and_a_lack_of_room_passes() {
        let condition = StoreCondition::default();
        assert_eq!(condition.health().trouble, None);
        condition.note(&SqliteFault::Full("disk".into()));
        assert!(condition.health().trouble.is_some() && condition.usable().is_ok());
        condition.has_room();
        assert_eq!(condition.health(), StoreHealth::good(Durability::Fsync));
        condition.held("locked");
        condition.note(&SqliteFault::Full("disk".into()));
        assert!(condition.health().trouble.is_some_and(|trouble| trouble.contains("sqlite3")));
        assert!(!condition.health().accepting && !condition.health().handling);
        condition.released();
        assert!(!condition.health().accepting && condition.health().handling, "what waits is worked off");
        condition.note(&SqliteFault::Final("fsync".into()));
        condition.has_room();
        assert!(condition.health().trouble.is_some_and(|trouble| trouble.contains("fsync")));
        assert!(condition.usable().is_err());
    }
}
