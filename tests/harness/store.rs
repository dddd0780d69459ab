//! The store of a host: a Redis server of the test's own, or a directory.
//!
//! A test that holds for every broker is a function of a [`Broker`]; [`on_both_brokers`](crate::on_both_brokers) makes two
//! tests of it. This module has what differs between the two stores.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::machine::Machine;
use crate::redis::RedisServer;

/// Makes two tests of each function: `redis::NAME` and `embedded::NAME`, below the module of the caller. So the name of a
/// failed test, and of its thread in the panic message, says which broker failed.
#[macro_export]
macro_rules! on_both_brokers {
    ($($test:ident),+ $(,)?) => {
        mod redis {
            $(#[test]
            fn $test() {
                super::$test($crate::store::Broker::Redis);
            })+
        }

        mod embedded {
            $(#[test]
            fn $test() {
                super::$test($crate::store::Broker::Embedded);
            })+
        }
    };
}

/// The broker of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// The broker on Redis. Several hosts may share one.
    Redis,
    /// The broker in a directory, for one host.
    Embedded,
}

/// A store of a test's own. Dropping it removes it.
pub enum Store {
    /// A running server.
    Redis(RedisServer),
    /// A directory, empty at first.
    Embedded(TempDir),
}

impl Broker {
    /// The name that users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Embedded => "embedded",
        }
    }

    /// Whether several hosts may share a store.
    pub fn is_shared(self) -> bool {
        self == Self::Redis
    }

    /// An empty store.
    ///
    /// # Panics
    /// It cannot be made; with Redis, because there is no `redis-server`.
    #[track_caller]
    pub fn start(self) -> Store {
        match self {
            Self::Redis => Store::Redis(RedisServer::start().expect("a Redis server starts")),
            Self::Embedded => Store::Embedded(tempfile::tempdir().expect("a temporary folder can be made")),
        }
    }

    /// A store with the files of a `.tar.gz` archive.
    ///
    /// # Panics
    /// The archive cannot be unpacked, or as [`Self::start`].
    #[track_caller]
    pub fn start_from(self, archive: &Path) -> Store {
        match self {
            Self::Redis => Store::Redis(RedisServer::start_from(archive).expect("a Redis server starts on the files")),
            Self::Embedded => {
                let folder = tempfile::tempdir().expect("a temporary folder can be made");
                unpack(archive, folder.path()).expect("the archive can be unpacked");
                Store::Embedded(folder)
            }
        }
    }

    /// An empty store on a machine. A Redis server runs on it; an embedded store needs a host that runs on it.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[track_caller]
    pub fn start_on(self, machine: &Machine) -> Store {
        match self {
            Self::Redis => Store::Redis(RedisServer::start_on(machine).expect("a Redis server starts")),
            Self::Embedded => self.start(),
        }
    }
}

impl Store {
    /// The URL of the store, for `broker.url`.
    pub fn url(&self) -> String {
        match self {
            Self::Redis(server) => server.url(),
            Self::Embedded(folder) => embedded_url(folder.path()),
        }
    }

    /// The Redis server.
    ///
    /// # Panics
    /// It is another store.
    #[track_caller]
    pub fn redis(&self) -> &RedisServer {
        match self {
            Self::Redis(server) => server,
            Self::Embedded(_) => panic!("this test is one of Redis"),
        }
    }

    /// Crashes the Redis server and starts it again. Does nothing for a directory, which crashes with its host.
    ///
    /// # Panics
    /// It does not start again.
    #[track_caller]
    pub fn crash(&self) {
        if let Self::Redis(server) = self {
            server.restart().expect("the Redis server starts again");
        }
    }

    /// The directory of its files.
    pub fn directory(&self) -> &Path {
        match self {
            Self::Redis(server) => server.directory(),
            Self::Embedded(folder) => folder.path(),
        }
    }

    /// How many bytes the store takes on disk.
    ///
    /// # Panics
    /// Its directory cannot be read.
    pub fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;

        let mut folders = vec![self.directory().to_owned()];
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the directory of the store can be read").flatten() {
                // The file may have been removed meanwhile.
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else {
                    bytes += metadata.blocks() * 512;
                }
            }
        }
        bytes
    }

    /// How many idempotency keys the store has, including those past their window.
    ///
    /// # Panics
    /// The store does not answer.
    #[track_caller]
    pub fn idempotency_keys(&self) -> usize {
        match self {
            Self::Redis(server) => {
                let keys: Vec<String> = server.command(&["KEYS", "*:idem:*"]).expect("the Redis server answers");
                keys.len()
            }
            Self::Embedded(folder) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let database = Connection::open_with_flags(database_in(folder.path()), flags);
                let counted = database.and_then(|database| {
                    database.query_row("SELECT count(*) FROM idempotency", [], |row| row.get::<_, i64>(0))
                });
                usize::try_from(counted.expect("the database answers")).expect("there are not less than none")
            }
        }
    }
}

/// Unpacks a `.tar.gz` archive into a folder.
pub(crate) fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder).arg("--no-same-owner").status();
    let status = status.context("tar cannot be started; is it installed?")?;
    ensure!(status.success(), "{} cannot be unpacked ({status})", archive.display());
    Ok(())
}

/// The URL of an embedded store in a directory.
pub fn embedded_url(folder: &Path) -> String {
    format!("embedded:{}", folder.display())
}

/// The database of the embedded store in a directory.
pub fn database_in(folder: &Path) -> PathBuf {
    folder.join("eventstream.db")
}
