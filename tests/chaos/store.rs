//! Checks the store after a run: everything in it must belong to an event or a host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use eventstream_tests::client::Client;
use eventstream_tests::eventually::{eventually, try_eventually};
use eventstream_tests::final_state::FinalState;
use eventstream_tests::redis::RedisServer;
use eventstream_tests::store::{Store, database_in};
use redis::Commands;
use rusqlite::Connection;

use crate::deployment::Deployment;

/// How long it may take until dead hosts are forgotten: they are noticed after a lease, and then removed by upkeep.
const HOUSEKEEPING_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Waits until the store has only ended events. Returns what else stays.
pub fn leftovers(deployment: &Deployment, observed: &FinalState, accepted: usize) -> Vec<String> {
    let ended = observed.processed.len() + observed.failed.len();
    let tidy = try_eventually(HOUSEKEEPING_LIMIT, || {
        let found = match &deployment.store {
            Store::Redis(server) => look(server, deployment, ended, accepted).unwrap(),
            Store::Embedded(folder) => look_into(&database_in(folder.path()), ended, accepted).unwrap(),
        };
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
    match (tidy, &deployment.store) {
        (Err(found), _) => found,
        (Ok(()), Store::Redis(_)) => Vec::new(),
        (Ok(()), Store::Embedded(_)) => forgotten_by_a_restart(deployment, observed),
    }
}

/// What the tables of an embedded store have besides ended events.
fn look_into(database: &Path, ended: usize, accepted: usize) -> rusqlite::Result<Vec<String>> {
    let database = Connection::open(database)?;
    let mut found = Vec::new();
    let verdict: String = database.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        found.push(format!("the database is damaged: {verdict}"));
    }
    for (what, query, should_be) in [
        ("events", "SELECT count(*) FROM event", ended),
        ("events that ended", "SELECT count(*) FROM event WHERE state IN (3, 4)", ended),
        ("bodies", "SELECT count(*) FROM body", ended),
        ("bodies of events", "SELECT count(*) FROM body JOIN event USING (number)", ended),
        ("idempotency keys", "SELECT count(*) FROM idempotency", accepted),
        ("idempotency keys of events", "SELECT count(*) FROM idempotency JOIN event USING (id)", accepted),
        ("the queued of all lanes", "SELECT coalesce(sum(queued), 0) FROM lane", 0),
    ] {
        let is: i64 = database.query_row(query, [], |row| row.get(0))?;
        if usize::try_from(is) != Ok(should_be) {
            found.push(format!("{what}: {is}, not {should_be}"));
        }
    }
    Ok(found)
}

/// Kills the host once more, and compares what the next one shows with what was shown before.
fn forgotten_by_a_restart(deployment: &Deployment, observed: &FinalState) -> Vec<String> {
    let url = deployment.url(0);
    deployment.places[0].kill();
    let metrics = eventually("the host serves again", || match deployment.url(0) {
        Some(now) if url.as_ref() != Some(&now) => Ok(Client::new(&now).metrics()),
        _ => Err("it does not"),
    });
    let mut found = Vec::new();
    if metrics != observed.metrics {
        found.push(format!("the totals were {} and are {metrics} after a restart", observed.metrics));
    }
    for (name, should_be) in [("waiting", 0), ("queued", 0), ("running", 0), ("scheduled", 0), ("consumers", 1)] {
        if metrics[name] != should_be {
            found.push(format!("{name} is {}, not {should_be}, after a restart", metrics[name]));
        }
    }
    found
}

fn look(
    server: &RedisServer,
    deployment: &Deployment,
    ended: usize,
    accepted: usize,
) -> redis::RedisResult<Vec<String>> {
    let mut store = server.admin().map_err(|error| redis::RedisError::from(std::io::Error::other(error)))?;
    let mut found = Vec::new();
    let mut expect = |what: String, is: usize, should_be: usize| {
        if is != should_be {
            found.push(format!("{what}: {is}, not {should_be}"));
        }
    };
    let keys: BTreeSet<String> = store.keys("*")?;
    let named = |name: &str| format!("{{es:0}}:{name}");
    expect("idempotency keys".into(), keys.iter().filter(|key| key.contains(":idem:")).count(), accepted);
    // Each is counted once for its lane, with the time at which it ends.
    let ends: BTreeMap<String, usize> = store.hgetall(named("idem-ends"))?;
    let counted = ends.iter().filter(|(end, _)| end.contains(':')).map(|(_, keys)| keys).sum();
    expect("counted idempotency keys".into(), counted, accepted);
    expect("the index of events".into(), store.hlen(named("ix"))?, ended);
    // The logs name every processed event once.
    let mut logged = 0;
    for log in keys.iter().filter(|key| key.contains(":log:")) {
        let parts: Vec<Vec<u8>> = store.lrange(log, 0, -1)?;
        logged += parts.iter().map(|part| part.len() / 20).sum::<usize>();
    }
    expect("processed events in logs".into(), logged, store.xlen(named("done"))?);
    expect("due later".into(), store.zcard(named("due"))?, 0);
    expect("parked".into(), store.hlen(named("parked"))?, 0);
    // Each consumer has a heartbeat (`c:`), an identity (`i:`) and the types that it serves (`s:`); `served` counts them.
    let known: Vec<String> = store.hkeys(named("hb"))?;
    let mut consumers: BTreeSet<String> =
        known.iter().filter_map(|field| Some(field.split_once(':')?.1.to_owned())).collect();
    for lane in keys.iter().filter(|key| key.contains(":q:")) {
        expect(format!("entries of {lane}"), store.xlen(lane)?, 0);
        let pending: redis::streams::StreamPendingReply = store.xpending(lane, "es")?;
        expect(format!("pending in {lane}"), pending.count(), 0);
        let known: redis::streams::StreamInfoConsumersReply = store.xinfo_consumers(lane, "es")?;
        consumers.extend(known.consumers.into_iter().map(|consumer| consumer.name));
    }
    let mut living: BTreeMap<String, usize> = deployment
        .places
        .iter()
        .filter_map(|place| Some((format!("{}-{}-", place.name, place.running()?.pid()), 0)))
        .collect();
    for consumer in consumers {
        match living.iter_mut().find(|(name, _)| consumer.starts_with(name.as_str())) {
            Some((_, count)) => *count += 1,
            None => found.push(format!("the consumer {consumer} belongs to no living host")),
        }
    }
    found.extend(
        living.into_iter().filter(|(_, count)| *count != 1).map(|(name, n)| format!("{n} consumers {name}...")),
    );
    let fixed = ["epoch", "lanes", "done", "failed", "ix", "counts", "hb", "idem-ends", "audit"].map(named);
    let is_known =
        |key: &String| [":idem:", ":q:", ":log:"].iter().any(|part| key.contains(part)) || fixed.contains(key);
    found.extend(keys.iter().filter(|key| !is_known(key)).map(|key| format!("the key {key}")));
    Ok(found)
}
