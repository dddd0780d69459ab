//! What a host keeps its events in: a Redis server of the test's own, or a directory.
//!
//! A test that holds for every broker is written once, as a function of the [`Broker`] that it is to run on, and made
//! into tests by [`on_both_brokers`](crate::on_both_brokers). What is here is only what differs between the two.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::machine::Machine;
use crate::redis::RedisServer;

/// Makes two tests of each function, one for each broker: `redis::NAME` and `embedded::NAME` in the module of the caller.
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

/// Which broker a host works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// The broker on Redis; several hosts may share one.
    Redis,
    /// The broker of one host, in a directory.
    Embedded,
}

/// A store of a test's own; removed when dropped.
pub enum Store {
    /// A server that runs.
    Redis(RedisServer),
    /// A directory, empty at first.
    Embedded(TempDir),
}

impl Broker {
    /// The name by which users see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Embedded => "embedded",
        }
    }

    /// Whether several hosts may work with one store.
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

    /// An empty store on a machine, of which a server keeps its files there; a host must be told by itself.
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
    /// The store as a host is told of it.
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

    /// Ends whatever of the store is a process, as a crash does, and starts it again. Nothing for a directory: it ends
    /// with its host.
    ///
    /// # Panics
    /// It does not start again.
    #[track_caller]
    pub fn crash(&self) {
        if let Self::Redis(server) = self {
            server.restart().expect("the Redis server starts again");
        }
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        match self {
            Self::Redis(server) => server.directory(),
            Self::Embedded(folder) => folder.path(),
        }
    }

    /// The bytes that the store takes on its disk.
    ///
    /// # Panics
    /// Its directory cannot be read.
    pub fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;

        let mut folders = vec![self.directory().to_owned()];
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the directory of the store can be read").flatten() {
                // What was there a moment ago may be gone.
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

    /// How many idempotency keys are kept, past their window or not.
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

/// A directory as a host is told of it.
pub fn embedded_url(folder: &Path) -> String {
    format!("embedded:{}", folder.display())
}

/// The database of the store in a directory.
pub fn database_in(folder: &Path) -> PathBuf {
    folder.join("eventstream.db")
}
