//! Every case of the suite for all brokers, each on a directory of its own.

use std::sync::Arc;

use async_trait::async_trait;
use eventstream::broker::contract::Rig;
use eventstream::broker::embedded::EmbeddedBroker;
use eventstream::broker::{Broker, Options};
use eventstream::shutdown::Tasks;

/// A directory, and the tasks of the brokers that come and go in it.
struct DirectoryRig {
    dir: tempfile::TempDir,
    tasks: Tasks,
}

impl DirectoryRig {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), tasks: Tasks::new() }
    }
}

#[async_trait]
impl Rig for DirectoryRig {
    async fn open(&self, options: Options) -> Arc<dyn Broker> {
        // A namespace is a store of its own; here that is a directory.
        EmbeddedBroker::open(&self.dir.path().join(&options.namespace), options, &self.tasks).unwrap()
    }

    async fn kill(&self, broker: Arc<dyn Broker>) {
        drop(broker);
    }
}

eventstream::broker_contract!(DirectoryRig::new());
