//! Another program locks the database. The broker reports it soon without any request, and recovers when the lock ends.

use std::time::Duration;

use eventstream::broker::embedded::{EmbeddedBroker, EmbeddedOpenError};
use eventstream::broker::{EventLog, WorkQueue};
use eventstream::shutdown::TaskGroup;
use rusqlite::Connection;

use super::audit::{open, options};
use super::load;

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect(what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_another_program_holds_is_told_without_anybody_sending() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    broker.append(vec![load::new_append(None)]).await.unwrap();
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        let other = Connection::open(dir.path().join("eventstream.db")).unwrap();
        other.execute_batch(begin).unwrap();
        let house = broker.clone();
        // A host runs upkeep every second, even if it is idle.
        let mut keeping = tokio::task::JoinSet::new();
        keeping.spawn(async move { house.maintain().await });
        eventually("it is told", || !broker.health().ready()).await;
        let health = broker.health();
        assert!(!health.accepting && !health.handling, "{health:?}");
        assert!(health.trouble.is_some_and(|trouble| trouble.contains("another program holds the database")));
        other.execute_batch("ROLLBACK").unwrap();
        // It waits for a while, and may have given up by now.
        let _ = keeping.join_next().await.unwrap().unwrap();
        broker.append(vec![load::new_append(None)]).await.unwrap();
        assert!(broker.health().ready(), "{:?}", broker.health());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_start_it_is_said_who_holds_the_database() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let other = Connection::open(dir.path().join("eventstream.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = EmbeddedBroker::open(dir.path(), options(), &TaskGroup::new()).map(drop).unwrap_err();
    assert!(matches!(refused, EmbeddedOpenError::Locked(_)), "{refused}");
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    open(dir.path());
}
