//! Every case of the suite for all brokers, each on an empty directory.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use eventstream::broker::contract::{BrokerRig, options};
use eventstream::broker::embedded::EmbeddedBroker;
use eventstream::broker::{Broker, BrokerOptions};
use eventstream::event::EventId;
use eventstream::shutdown::TaskGroup;

/// A directory, and the tasks of the brokers that are opened on it.
struct DirectoryRig {
    dir: tempfile::TempDir,
    tasks: TaskGroup,
}

impl DirectoryRig {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), tasks: TaskGroup::new() }
    }
}

#[async_trait]
impl BrokerRig for DirectoryRig {
    async fn open(&self, options: BrokerOptions) -> Arc<dyn Broker> {
        // A namespace is a store of its own; here that is a directory.
        EmbeddedBroker::open(&self.dir.path().join(&options.namespace), options, &self.tasks).unwrap()
    }

    async fn kill(&self, broker: Arc<dyn Broker>) {
        drop(broker);
    }

    async fn damage(&self, id: EventId) {
        let database = self.dir.path().join(options().namespace).join("eventstream.db");
        let db = rusqlite::Connection::open(database).unwrap();
        db.busy_timeout(Duration::from_secs(60)).unwrap();
        let damage = "UPDATE body SET head = 'damaged' WHERE number = (SELECT number FROM event WHERE id = ?1)";
        assert_eq!(db.execute(damage, [&id.as_bytes()[..]]).unwrap(), 1);
    }
}

eventstream::broker_contract!(DirectoryRig::new());
