//! A process without free descriptors.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use eventstream::broker::{Broker, EventLog, StoreTransfer, WorkQueue};
use eventstream::event::EventState;
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::audit::open;
use super::load;

/// The variable that names the directory for the process without descriptors.
const DIRECTORY: &str = "EMBEDDED_TEST_DESCRIPTORS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the work of the process that the other test starts"]
async fn work_without_descriptors() {
    let Ok(dir) = std::env::var(DIRECTORY) else { return };
    let broker = open(Path::new(&dir));
    let id = broker.append(vec![load::new_append(None)]).await.unwrap()[0].id;
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..before }).unwrap();
    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(taken.len() < 256);
    for _ in 0..20 {
        let reads = join_all((0..50).map(|_| broker.find_event(id))).await;
        assert!(reads.iter().all(|read| read.as_ref().is_ok_and(Option::is_some)), "{reads:?}");
        broker.append((0..100).map(|_| load::new_append(None)).collect()).await.unwrap();
        broker.maintain().await.unwrap();
    }
    // Calls that need a descriptor are refused and do no harm.
    assert!(broker.snapshot().await.is_err());
    assert_eq!(broker.health().trouble, None);
    drop(taken);
    broker.snapshot().await.unwrap();
    assert!(matches!(broker.find_event(id).await.unwrap().unwrap().state, EventState::Queued | EventState::Scheduled));
    broker.close().await.unwrap();
    println!("went on");
}

#[test]
fn a_process_that_runs_out_of_descriptors_goes_on_reading_and_writing() {
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "descriptors::work_without_descriptors", "--ignored", "--nocapture", "--quiet"])
        .env(DIRECTORY, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("went on"), "{said}{}", String::from_utf8_lossy(&done.stderr));
}
