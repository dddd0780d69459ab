//! Brokers that break one guarantee, to prove that the tests notice.
//!
//! Each mutant is a mistake that real brokers make. A mutant replaces scripts or steps when the broker is opened; the code
//! of the product does not know it.

use std::str::FromStr;
use std::sync::Arc;

use redis::Value;

use crate::broker::redis::connection::{CallFailure, reply};
use crate::broker::redis::maintain::{StoreMaintenance, read_outcome};
use crate::broker::redis::scripts::{Script, ScriptSet, with_prelude};
use crate::broker::redis::settle::{DeliverySettler, EncodedSettle};
use crate::broker::redis::{AtomicSteps, RedisBroker, RedisOpenError, RedisTuning};
use crate::broker::{BrokerOptions, Error, Lane, PromoteOutcome, SettleOutcome};
use crate::shutdown::TaskGroup;

/// A guarantee that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerMutant {
    /// Acknowledges in a step of its own, before the outcome is stored.
    AckFirst,
    /// Settles a delivery that another consumer holds.
    NoFence,
    /// Removes a due event from the schedule in one step and adds it to its lane in the next.
    PromoteRemovesFirst,
    /// Makes a consumer group at its first read, at the end of the stream.
    GroupAtEnd,
    /// Publishes events in a step of its own, before the settle.
    PublishApart,
}

impl BrokerMutant {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::AckFirst, Self::NoFence, Self::PromoteRemovesFirst, Self::GroupAtEnd, Self::PublishApart];

    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AckFirst => "ack-first",
            Self::NoFence => "no-fence",
            Self::PromoteRemovesFirst => "promote-removes-first",
            Self::GroupAtEnd => "group-at-end",
            Self::PublishApart => "publish-apart",
        }
    }

    /// The code of a script with this mistake.
    fn edit_script(self, name: &str, code: String) -> String {
        const FENCE: &str = "return deliveries == expected";
        const OPEN: &str = "    redis.call('XGROUP', 'CREATE', key, GROUP, '0', 'MKSTREAM')\n  end\nend\n";
        const MAKE: &str = "redis.pcall('XGROUP', 'CREATE', lane_key(i), GROUP, '0', 'MKSTREAM')";
        match (self, name) {
            (Self::NoFence | Self::AckFirst, "settle") => code.replace(FENCE, "return true"),
            (Self::GroupAtEnd, "claim") => code.replace(
                "'CREATE', key, GROUP, '0', 'MKSTREAM')\n    reply",
                "'CREATE', key, GROUP, '$', 'MKSTREAM')\n    reply",
            ),
            (Self::GroupAtEnd, "lanes") => code.replace(MAKE, "{}"),
            (Self::GroupAtEnd, _) => code.replace(OPEN, "  end\nend\n"),
            _ => code,
        }
    }

    /// The scripts and steps of a broker with this mistake.
    fn steps(self) -> AtomicSteps {
        let sound = AtomicSteps { scripts: self.scripts(), ..AtomicSteps::default() };
        match self {
            Self::AckFirst => {
                AtomicSteps { settle: |settler, items| Box::pin(acknowledge_first(settler, items)), ..sound }
            }
            Self::PublishApart => {
                AtomicSteps { settle: |settler, items| Box::pin(publish_apart(settler, items)), ..sound }
            }
            Self::PromoteRemovesFirst => {
                AtomicSteps { promote: |maintenance| Box::pin(remove_before_adding(maintenance)), ..sound }
            }
            Self::NoFence | Self::GroupAtEnd => sound,
        }
    }

    fn scripts(self) -> ScriptSet {
        ScriptSet::new_edited(|name, code| self.edit_script(name, code))
    }
}

impl RedisBroker {
    /// Opens a broker as [`Self::open`] does, with one guarantee broken.
    ///
    /// # Errors
    /// See [`RedisOpenError`].
    pub async fn open_mutant(
        url: &str,
        options: BrokerOptions,
        mutant: BrokerMutant,
        tasks: &TaskGroup,
    ) -> Result<Arc<Self>, RedisOpenError> {
        Self::open_with(url, options, RedisTuning::default(), mutant.steps(), tasks).await
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

/// Acknowledges each delivery in a call of its own, then settles it.
async fn acknowledge_first(
    settler: &DeliverySettler,
    items: &[EncodedSettle],
) -> Result<Vec<SettleOutcome>, CallFailure> {
    let script = script(
        "#!lua flags=allow-oom
local p = redis.call('XPENDING', lane_key(1), GROUP, ARGV[2], ARGV[2], 1)
if #p == 0 or p[1][2] ~= ARGV[1] or p[1][4] ~= tonumber(ARGV[3]) then return 0 end
redis.call('XACK', lane_key(1), GROUP, ARGV[2])
return redis.call('XDEL', lane_key(1), ARGV[2])
",
    );
    let client = &settler.client;
    let mut settled = Vec::new();
    for item in items {
        let call = client
            .script_call(&script)
            .lane_keys(&client.keys, [&item.receipt.lane])
            .text(&client.consumer)
            .text(&item.receipt.entry)
            .number(item.receipt.deliveries);
        let is_held = reply::count(&client.call(&call).await?)? == 1;
        if is_held {
            client.call(&settler.settle_call(std::slice::from_ref(item)).0).await?;
        }
        settler.hand_overs.remove(&item.receipt);
        settled.push(if is_held { SettleOutcome::Done } else { SettleOutcome::Lost });
    }
    Ok(settled)
}

/// Publishes events in calls of their own, then settles. Items that publish nothing are settled in one step.
async fn publish_apart(settler: &DeliverySettler, items: &[EncodedSettle]) -> Result<Vec<SettleOutcome>, CallFailure> {
    if items.iter().all(|item| item.children.is_empty()) {
        return settler.settle_atomically(items).await;
    }
    let script = script(
        "#!lua flags=allow-oom
enqueue(ARGV[1], 1, ARGV[2], ARGV[3], ARGV[4], ARGV[5], now_ms())
return redis.call('HINCRBY', COUNTS, 'published', 1)
",
    );
    let client = &settler.client;
    let mut settled = Vec::new();
    for item in items {
        for child in &item.children {
            let mut call =
                client.script_call(&script).lane_keys(&client.keys, [&child.lane]).text(&child.id.to_string());
            call.push_text(child.lane.as_str());
            child.push_start(&mut call);
            call.push_bytes(child.blob.clone());
            client.call(&call).await?;
        }
        let alone = EncodedSettle {
            receipt: item.receipt.clone(),
            blob: item.blob.clone(),
            settlement: item.settlement.clone(),
            lane: item.lane.clone(),
            children: Vec::new(),
            state: item.state.clone(),
        };
        let (call, _) = settler.settle_call(std::slice::from_ref(&alone));
        let answer = reply::text(client.link.call_until_known(&call).await?)?;
        settler.hand_overs.remove(&item.receipt);
        settled.push(if answer == "D" { SettleOutcome::Done } else { SettleOutcome::Lost });
    }
    Ok(settled)
}

/// Removes each due event from the schedule in one call, and adds it to its lane in the next.
async fn remove_before_adding(maintenance: &StoreMaintenance) -> Result<PromoteOutcome, Error> {
    let remove = script(
        "#!lua flags=allow-oom
local id = redis.call('ZRANGEBYSCORE', DUE, '-inf', int(now_ms()), 'LIMIT', 0, 1)[1]
local raw = id and redis.call('HGET', PARKED, id)
if not raw then return {} end
redis.call('ZREM', DUE, id)
redis.call('HDEL', PARKED, id)
return { id, string.match(raw, '^([^\\n]*)\\n(.*)$') }
",
    );
    let add = script(
        "#!lua flags=allow-oom
local entry = redis.call('XADD', lane_key(1), '*', 'id', ARGV[1], 'b', ARGV[3])
set_place(ARGV[1], 'q', ARGV[2], entry, '')
return 1
",
    );
    let client = &maintenance.client;
    let mut moved = 0_i64;
    while let Ok([id, lane, blob]) = reply::tuple(client.call(&client.script_call(&remove)).await?) {
        let (id, lane_name) = (reply::text(id)?, reply::text(lane)?);
        let lane = lane_name.parse().unwrap_or_else(|_| Lane::unrouted());
        let mut call = client.script_call(&add).lane_keys(&client.keys, [&lane]).text(&id).text(&lane_name);
        call.push_bytes(reply::bytes(blob)?.unwrap_or_default());
        client.call(&call).await?;
        moved += 1;
    }
    read_outcome(&Value::Int(moved), &Value::Int(500))
}

/// A script of a mutant, with the prelude of the product's scripts.
fn script(text: &str) -> Script {
    Script::from_code(with_prelude(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_is_found_by_its_name() {
        for mutant in BrokerMutant::ALL {
            assert_eq!(mutant.as_str().parse(), Ok(mutant));
        }
        assert!("none".parse::<BrokerMutant>().is_err());
    }

    #[test]
    fn every_edit_changes_its_scripts() {
        let (sound, ack, fence, group) = (
            ScriptSet::new(),
            BrokerMutant::AckFirst.scripts(),
            BrokerMutant::NoFence.scripts(),
            BrokerMutant::GroupAtEnd.scripts(),
        );
        assert_ne!(sound.digest_of("settle"), ack.digest_of("settle"));
        assert_ne!(sound.digest_of("settle"), fence.digest_of("settle"));
        for name in ["append", "claim", "lanes", "settle", "promote"] {
            assert_ne!(sound.digest_of(name), group.digest_of(name), "{name}");
        }
    }
}
