//! Looking at events: one in whatever state, and totals. And putting failed ones back to work.
//!
//! An event is in one place at a time, and the index knows which. Nothing here changes anything but [`Core::replay`].

use redis::Value;

use super::codec;
use super::core::Core;
use super::fault::Failure;
use super::reply;
use crate::broker::{Counters, Depth, Error, Found, Lane, Replayed, Stats};
use crate::event::{Class, EventId, State, Timestamp};

/// An event as it was found, and its entry where it has one.
struct Located {
    found: Found,
    entry: String,
}

impl Core {
    /// See [`crate::broker::Broker::event`].
    pub(super) async fn event(&self, id: EventId) -> Result<Option<Found>, Error> {
        Ok(self.locate(id).await?.map(|located| located.found))
    }

    async fn locate(&self, id: EventId) -> Result<Option<Located>, Error> {
        let (_, answer) = self
            .with_all_lanes(|book| {
                self.script(&self.scripts.find)
                    .number(book.set_size)
                    .text(&id.to_string())
                    .named_lanes(&self.keys, &book.lanes)
            })
            .await?;
        let [kind, blob, due_ms, entry] = reply::tuple(answer)?;
        let Some(blob) = reply::bytes(blob)? else { return Ok(None) };
        let record = codec::decode(&blob).map_err(|error| Error::Misconfigured(error.to_string()))?;
        let state = match reply::text(kind)?.as_str() {
            "q" => State::Queued,
            "r" => State::Running,
            "p" => State::Processed,
            "f" => State::Failed,
            _ => record.state_until_due(),
        };
        let is_due_later = matches!(state, State::Scheduled | State::Retrying);
        let due = is_due_later.then_some(Timestamp::from_unix_ms(reply::int(&due_ms)?));
        Ok(Some(Located { found: Found { record, state, due }, entry: reply::text(entry)? }))
    }

    /// See [`crate::broker::Broker::replay`].
    pub(super) async fn replay(&self, id: EventId, lane: &Lane) -> Result<Replayed, Error> {
        self.make_lanes(self.missing_lanes([lane])).await?;
        let Some(located) = self.locate(id).await? else { return Ok(Replayed::Unknown) };
        if located.found.state != State::Failed {
            return Ok(Replayed::NotFailed(located.found.state));
        }
        let blob =
            codec::encode(&located.found.record.replayed()).map_err(|error| Error::Misconfigured(error.to_string()))?;
        let mut call = self
            .script(&self.scripts.replay)
            .lane_keys(&self.keys, [lane])
            .text(&id.to_string())
            .text(&located.entry)
            .text(lane.as_str());
        call.push_bytes(blob);
        if reply::text(self.link.repeat(&call).await?)? == "D" {
            return Ok(Replayed::Done);
        }
        // Somebody else replayed it in between.
        Ok(match self.locate(id).await? {
            Some(located) => Replayed::NotFailed(located.found.state),
            None => Replayed::Unknown,
        })
    }

    /// See [`crate::broker::Broker::stats`].
    pub(super) async fn stats(&self) -> Result<Stats, Error> {
        let (book, answer) = self
            .with_all_lanes(|book| {
                self.script(&self.scripts.stats)
                    .lane_keys(&self.keys, &book.lanes)
                    .number(book.set_size)
                    .number(book.lanes.len())
            })
            .await?;
        let [counts, lengths, running, scheduled, done, failed, consumers] = reply::tuple(answer)?;
        let lengths = reply::array(lengths)?.iter().map(reply::count).collect::<Result<Vec<_>, _>>()?;
        let queued = book.lanes.iter().map(|lane| lane.as_str().to_owned()).zip(lengths).collect();
        let (counters, state_keys) = read_counters(counts)?;
        Ok(Stats {
            counters,
            depth: Depth {
                queued,
                running: reply::count(&running)?,
                scheduled: reply::count(&scheduled)?,
                processed_kept: reply::count(&done)?,
                failed_kept: reply::count(&failed)?,
                state_keys,
                consumers: reply::count(&consumers)?,
            },
        })
    }
}

/// The counters, and how many keys plugins have.
fn read_counters(counts: Value) -> Result<(Counters, u64), Failure> {
    let (mut counters, mut state_keys) = (Counters::default(), 0);
    for (name, value) in reply::pairs(counts)? {
        let name = reply::text(name)?;
        let Ok(value) = reply::count(&value) else { continue };
        match name.as_str() {
            "accepted" => counters.accepted = value,
            "duplicates" => counters.duplicates = value,
            "published" => counters.published = value,
            "processed" => counters.processed = value,
            "failed" => counters.failed = value,
            "retried" => counters.retried = value,
            "replayed" => counters.replayed = value,
            "recovered" => counters.recovered = value,
            "data_losses" => counters.data_losses = value,
            "state_conflicts" => counters.state_conflicts = value,
            "state_keys" => state_keys = value,
            other => {
                let class = other.strip_prefix("failed:");
                let class = class.and_then(|word| Class::ALL.into_iter().find(|class| class.as_str() == word));
                if let Some(class) = class {
                    counters.failed_by_class.insert(class, value);
                }
            }
        }
    }
    Ok((counters, state_keys))
}
