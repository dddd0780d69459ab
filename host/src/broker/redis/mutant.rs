//! Brokers that break a guarantee on purpose, so that the tests can be shown to notice.
//!
//! Each mutant is a mistake that is made in the field. They exist under the feature `test-util` only, and nothing in the
//! product can choose one by itself.

use std::str::FromStr;

use super::core::RedisCore;
use super::fault::CallFailure;
use super::reply;
use super::scripts::Script;
use super::settle::EncodedSettle;
use super::upkeep;
use crate::broker::{PromoteOutcome, SettleOutcome};

/// A guarantee that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerMutant {
    /// Acknowledges in a step of its own, before the outcome is stored.
    AckFirst,
    /// Settles whoever holds the delivery.
    NoFence,
    /// Takes due events out of the schedule in one step and puts them into their lanes in another.
    PromoteRemovesFirst,
    /// Makes a consumer group when it is first read, at the end of what is there.
    GroupAtEnd,
    /// Appends published events in a step of its own, before the settle.
    PublishApart,
}

impl BrokerMutant {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::AckFirst, Self::NoFence, Self::PromoteRemovesFirst, Self::GroupAtEnd, Self::PublishApart];

    /// How it is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AckFirst => "ack-first",
            Self::NoFence => "no-fence",
            Self::PromoteRemovesFirst => "promote-removes-first",
            Self::GroupAtEnd => "group-at-end",
            Self::PublishApart => "publish-apart",
        }
    }

    /// The text of a script as this mutant runs it.
    pub(super) fn patch(self, name: &str, text: &str) -> String {
        const FENCE: &str = "return deliveries == expected";
        const OPEN: &str = "    redis.call('XGROUP', 'CREATE', key, GROUP, '0', 'MKSTREAM')\n  end\nend\n";
        const MAKE: &str = "redis.pcall('XGROUP', 'CREATE', lane_key(i), GROUP, '0', 'MKSTREAM')";
        match (self, name) {
            (Self::NoFence | Self::AckFirst, "settle") => text.replace(FENCE, "return true"),
            (Self::GroupAtEnd, "claim") => text.replace(
                "'CREATE', key, GROUP, '0', 'MKSTREAM')\n    reply",
                "'CREATE', key, GROUP, '$', 'MKSTREAM')\n    reply",
            ),
            (Self::GroupAtEnd, "lanes") => text.replace(MAKE, "{}"),
            (Self::GroupAtEnd, _) => text.replace(OPEN, "  end\nend\n"),
            _ => text.to_owned(),
        }
    }

    /// Settles as this mutant does; `None` if it settles as it should.
    pub(super) async fn settle(
        self,
        core: &RedisCore,
        items: &[EncodedSettle],
    ) -> Option<Result<Vec<SettleOutcome>, CallFailure>> {
        match self {
            Self::AckFirst => Some(settle_acknowledged(core, items).await),
            Self::PublishApart if items.iter().any(|item| !item.children.is_empty()) => {
                Some(settle_after_publishing(core, items).await)
            }
            _ => None,
        }
    }

    /// Promotes as this mutant does; `None` if it promotes as it should.
    pub(super) async fn promote(self, core: &RedisCore) -> Option<Result<PromoteOutcome, crate::broker::Error>> {
        match self {
            Self::PromoteRemovesFirst => Some(promote_removed(core).await),
            _ => None,
        }
    }
}

impl FromStr for BrokerMutant {
    type Err = UnknownMutant;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|mutant| mutant.as_str() == name).ok_or_else(|| UnknownMutant(name.to_owned()))
    }
}

/// There is no such mutant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no mutant {0:?}")]
pub struct UnknownMutant(String);

async fn settle_acknowledged(core: &RedisCore, items: &[EncodedSettle]) -> Result<Vec<SettleOutcome>, CallFailure> {
    let script = Script::new(
        "#!lua flags=allow-oom
local p = redis.call('XPENDING', lane_key(1), GROUP, ARGV[2], ARGV[2], 1)
if #p == 0 or p[1][2] ~= ARGV[1] or p[1][4] ~= tonumber(ARGV[3]) then return 0 end
redis.call('XACK', lane_key(1), GROUP, ARGV[2])
return redis.call('XDEL', lane_key(1), ARGV[2])
",
    );
    let mut settled = Vec::new();
    for item in items {
        let call = core
            .script(&script)
            .lane_keys(&core.keys, [&item.receipt.lane])
            .text(&core.consumer)
            .text(&item.receipt.entry)
            .number(item.receipt.deliveries);
        let is_held = reply::count(&core.link.call(&call).await?)? == 1;
        if is_held {
            core.link.call(&core.settle_call(std::slice::from_ref(item)).0).await?;
        }
        core.held.remove(&item.receipt);
        settled.push(if is_held { SettleOutcome::Done } else { SettleOutcome::Lost });
    }
    Ok(settled)
}

async fn settle_after_publishing(core: &RedisCore, items: &[EncodedSettle]) -> Result<Vec<SettleOutcome>, CallFailure> {
    let script = Script::new(
        "#!lua flags=allow-oom
enqueue(ARGV[1], 1, ARGV[2], ARGV[3], ARGV[4], ARGV[5], now_ms())
return redis.call('HINCRBY', COUNTS, 'published', 1)
",
    );
    let mut settled = Vec::new();
    for item in items {
        for child in &item.children {
            let mut call = core.script(&script).lane_keys(&core.keys, [&child.lane]).text(&child.id.to_string());
            call.push_text(child.lane.as_str());
            child.push_start(&mut call);
            call.push_bytes(child.blob.clone());
            core.link.call(&call).await?;
        }
        let alone = EncodedSettle {
            receipt: item.receipt.clone(),
            blob: item.blob.clone(),
            settlement: item.settlement.clone(),
            lane: item.lane.clone(),
            children: Vec::new(),
            state: item.state.clone(),
        };
        let (call, _) = core.settle_call(std::slice::from_ref(&alone));
        let answer = reply::text(core.link.repeat(&call).await?)?;
        core.held.remove(&item.receipt);
        settled.push(if answer == "D" { SettleOutcome::Done } else { SettleOutcome::Lost });
    }
    Ok(settled)
}

async fn promote_removed(core: &RedisCore) -> Result<PromoteOutcome, crate::broker::Error> {
    let remove = Script::new(
        "#!lua flags=allow-oom
local id = redis.call('ZRANGEBYSCORE', DUE, '-inf', int(now_ms()), 'LIMIT', 0, 1)[1]
local raw = id and redis.call('HGET', PARKED, id)
if not raw then return {} end
redis.call('ZREM', DUE, id)
redis.call('HDEL', PARKED, id)
return { id, string.match(raw, '^([^\\n]*)\\n(.*)$') }
",
    );
    let add = Script::new(
        "#!lua flags=allow-oom
local entry = redis.call('XADD', lane_key(1), '*', 'id', ARGV[1], 'b', ARGV[3])
set_place(ARGV[1], 'q', ARGV[2], entry, '')
return 1
",
    );
    let mut moved = 0_i64;
    while let Ok([id, lane, blob]) = reply::tuple(core.link.call(&core.script(&remove)).await?) {
        let (id, lane_name) = (reply::text(id)?, reply::text(lane)?);
        let lane = lane_name.parse().unwrap_or_else(|_| crate::broker::Lane::unrouted());
        let mut call = core.script(&add).lane_keys(&core.keys, [&lane]).text(&id).text(&lane_name);
        call.push_bytes(reply::bytes(blob)?.unwrap_or_default());
        core.link.call(&call).await?;
        moved += 1;
    }
    upkeep::promoted(&redis::Value::Int(moved), &redis::Value::Int(500))
}

#[cfg(test)]
mod tests {
    use super::super::scripts::ScriptSet;
    use super::*;

    #[test]
    fn mutants_are_called_by_their_names() {
        for mutant in BrokerMutant::ALL {
            assert_eq!(mutant.as_str().parse(), Ok(mutant));
        }
        assert!("none".parse::<BrokerMutant>().is_err());
    }

    #[test]
    fn patches_still_find_what_they_replace() {
        let (whole, ack, fence, group) = (
            ScriptSet::new(),
            ScriptSet::broken_by(BrokerMutant::AckFirst),
            ScriptSet::broken_by(BrokerMutant::NoFence),
            ScriptSet::broken_by(BrokerMutant::GroupAtEnd),
        );
        assert_ne!(whole.digest_of("settle"), ack.digest_of("settle"));
        assert_ne!(whole.digest_of("settle"), fence.digest_of("settle"));
        for name in ["append", "claim", "lanes", "settle", "promote"] {
            assert_ne!(whole.digest_of(name), group.digest_of(name), "{name}");
        }
    }
}
