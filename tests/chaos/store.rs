//! A look into Redis after a run: nothing may be left that belongs to no event and to no host.

use std::collections::{BTreeMap, BTreeSet};

use eventstream_tests::eventually::try_eventually;
use redis::Commands;

use crate::deployment::Deployment;

/// How long the forgetting of the dead may take: they are noticed after a lease and forgotten in passing.
const HOUSEKEEPING_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Waits until the store holds the ends of events and nothing else; tells what else there is if it stays.
pub fn leftovers(deployment: &Deployment, ended: usize, accepted: usize) -> Vec<String> {
    let tidy = try_eventually(HOUSEKEEPING_LIMIT, || {
        let found = look(deployment, ended, accepted).unwrap();
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
    tidy.err().unwrap_or_default()
}

fn look(deployment: &Deployment, ended: usize, accepted: usize) -> redis::RedisResult<Vec<String>> {
    let mut store = deployment.redis.admin().map_err(|error| redis::RedisError::from(std::io::Error::other(error)))?;
    let mut found = Vec::new();
    let mut expect = |what: String, is: usize, should_be: usize| {
        if is != should_be {
            found.push(format!("{what}: {is}, not {should_be}"));
        }
    };
    let keys: BTreeSet<String> = store.keys("*")?;
    let named = |name: &str| format!("{{es:0}}:{name}");
    expect("idempotency keys".into(), keys.iter().filter(|key| key.contains(":idem:")).count(), accepted);
    expect("the index of events".into(), store.hlen(named("ix"))?, ended);
    expect("due later".into(), store.zcard(named("due"))?, 0);
    expect("parked".into(), store.hlen(named("parked"))?, 0);
    // Each consumer has a heartbeat (`c:`) and an identity (`i:`).
    let known: Vec<String> = store.hkeys(named("hb"))?;
    let mut consumers: BTreeSet<String> = known
        .iter()
        .map(|field| field.split_once(':').map_or(field.as_str(), |(_, consumer)| consumer).to_owned())
        .collect();
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
    let fixed = ["epoch", "lanes", "done", "failed", "ix", "counts", "hb"].map(named);
    let is_known = |key: &String| key.contains(":idem:") || key.contains(":q:") || fixed.contains(key);
    found.extend(keys.iter().filter(|key| !is_known(key)).map(|key| format!("the key {key}")));
    Ok(found)
}
