//! A process that is killed under load, again and again, on one directory.
//!
//! The process is this test program, started with the name of the test that does the work. A variable names the
//! directory. It prints a line for each acknowledgement.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use eventstream::broker::EventLog;

use super::audit::{audit, open, recovered};
use super::load::{self, Ack};

/// The variable that names the directory for the process that is killed.
const DIRECTORY: &str = "EMBEDDED_TEST_DIRECTORY";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the work of the process that the other test kills"]
async fn work_until_killed() {
    let Ok(dir) = std::env::var(DIRECTORY) else { return };
    let broker = open(Path::new(&dir));
    recovered(&broker).await;
    let told = |ack: Ack| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{ack}").and_then(|()| out.flush()).unwrap();
    };
    load::run(broker, Arc::new(AtomicBool::new(false)), told).await;
}

/// Starts the work, kills it after a while, and returns what it had acknowledged.
fn work_and_be_killed(dir: &Path, after: Duration) -> Vec<Ack> {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::work_until_killed", "--ignored", "--nocapture", "--quiet"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let is_ack = |line: String| line.parse::<Ack>().ok();
    // The time to live begins when it works.
    let first = lines.by_ref().find_map(is_ack);
    let reading = std::thread::spawn(move || lines.filter_map(is_ack).collect::<Vec<_>>());
    std::thread::sleep(after);
    process.kill().unwrap();
    process.wait().unwrap();
    first.into_iter().chain(reading.join().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_again_and_again_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut acks = Vec::new();
    for round in 0..8 {
        let after = Duration::from_millis(fastrand::u64(20..400));
        let acknowledged = work_and_be_killed(dir.path(), after);
        assert!(!acknowledged.is_empty(), "round {round}: it worked");
        acks.extend(acknowledged);
        audit(dir.path(), &acks).await;
    }
    // Finally everything can be processed.
    let broker = open(dir.path());
    recovered(&broker).await;
    let stats = broker.stats().await.unwrap();
    assert_eq!(stats.depth.waiting() + stats.depth.processed_kept + stats.depth.failed_kept, {
        stats.counters.accepted + stats.counters.published
    });
}
