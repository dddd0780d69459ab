//! What has to be done now and then: due events, retention, the living and the dead.
//!
//! All of it may be done by every host at once; each step is one script that leaves nothing for the second one to do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::Value;

use super::board::{TroubleKind, told};
use super::core::RedisCore;
use super::fault::CallFailure;
use super::reply;
use crate::broker::{Error, PromoteOutcome};

/// The most events that one call moves.
const MAX_MOVED: usize = 100;
/// For how long what is due is put off if its lane holds something else.
const PUT_OFF_MS: u64 = 5_000;
/// The most events that one call forgets.
const MAX_FORGOTTEN: usize = 500;
/// The bytes of history that are looked at in one call.
const MAX_LOOKED_AT_BYTES: usize = 1024 * 1024;
/// The most calls of each kind in one round; what is left is done in the next.
const MAX_CALLS: usize = 20;
/// The most consumers that are forgotten at a time.
const MAX_REAPED: usize = 20;

impl RedisCore {
    /// Moves due events to their lanes; see [`crate::broker::WorkQueue::promote`].
    pub(super) async fn promote(&self) -> Result<PromoteOutcome, Error> {
        #[cfg(feature = "test-util")]
        if let Some(mutant) = self.mutant
            && let Some(promoted) = mutant.promote(self).await
        {
            return promoted;
        }
        let (_, answer) = self
            .with_all_lanes(|book| {
                self.script(&self.scripts.promote)
                    .number(book.set_size)
                    .number(MAX_MOVED)
                    .number(book.unrouted_place())
                    .number(PUT_OFF_MS)
                    .named_lanes(&self.keys, &book.lanes)
            })
            .await?;
        let [_, moved, orphans, wait_ms, wrong] = reply::tuple(answer)?;
        let wrong = reply::array(wrong)?.into_iter().map(reply::text).collect::<Result<_, _>>()?;
        if let Some(words) = told(wrong) {
            self.board().raise(TroubleKind::Misplaced, words);
        }
        let orphans = reply::count(&orphans)?;
        if orphans > 0 {
            self.board().remark("orphan", || format!("{orphans} due times belonged to no event and were dropped"));
        }
        promoted(&moved, &wait_ms)
    }

    /// Shows that this consumer is alive, learns of new lanes, and forgets what is past its retention and who is dead;
    /// whether there is more to forget. The sign of life comes first, since others take for dead who does not give it. A step
    /// that needs a person to act does not keep the others from being done; its error is the answer in the end.
    pub(super) async fn maintain(&self) -> Result<bool, Error> {
        let mut first_error = None;
        go_on(&mut first_error, self.show_life().await)?;
        go_on(&mut first_error, self.refresh_lanes(&[]).await)?;
        go_on(&mut first_error, self.reap_dead().await)?;
        let (mut more_events, mut more_state) = (true, true);
        for _ in 0..MAX_CALLS {
            if more_events {
                more_events = go_on(&mut first_error, self.trim().await)?.unwrap_or(false);
            }
            if more_state {
                more_state = go_on(&mut first_error, self.forget_state().await)?.unwrap_or(false);
            }
        }
        first_error.map_or(Ok(more_events || more_state), Err)
    }

    /// Shows that this consumer is alive and what it serves. A few times in a lease, and when somebody serves something
    /// else than before, looks who else is alive.
    pub(super) async fn show_life(&self) -> Result<(), CallFailure> {
        let lease = Duration::from_millis(self.options.lease_ms);
        let now = Instant::now();
        let looks = {
            let mut seen_at = self.peers_seen_at.lock();
            let looks = seen_at.is_none_or(|seen_at| now.duration_since(seen_at) >= lease / 4);
            if looks {
                *seen_at = Some(now);
            }
            looks
        };
        let lanes = self.book().lanes.clone();
        let known = self.changes_known();
        let call = self
            .script(&self.scripts.beat)
            .lane_keys(&self.keys, &lanes)
            .text(&self.consumer)
            .text(&self.identity.to_text())
            .text(&self.serving.load().text)
            .text(&known)
            .number(lanes.len())
            .number(u8::from(looks));
        let [fields, names, changes] = reply::tuple(self.link.call(&call).await?)?;
        let changes = reply::text(changes)?;
        if !looks && changes == known {
            self.note_neighbors(changes, None);
            return Ok(());
        }
        let mut consumers: BTreeMap<String, (Option<i64>, Option<String>)> = reply::array(names)?
            .into_iter()
            .map(|name| Ok((reply::text(name)?, (None, None))))
            .collect::<Result<_, _>>()?;
        let mut said = BTreeMap::new();
        for (field, value) in reply::pairs(fields)? {
            let field = reply::text(field)?;
            if let Some(name) = field.strip_prefix("c:") {
                consumers.entry(name.to_owned()).or_default().0 = Some(reply::int(&value)?);
            } else if let Some(name) = field.strip_prefix("i:") {
                consumers.entry(name.to_owned()).or_default().1 = reply::text(value).ok();
            } else if let Some((name, text)) = field.strip_prefix("s:").zip(reply::text(value).ok()) {
                said.insert(name.to_owned(), text);
            }
        }
        let consumers = consumers.into_iter().map(|(name, (heartbeat, identity))| (name, heartbeat, identity));
        self.peers.lock().observe(Instant::now(), lease / 2, &self.identity, consumers);
        self.note_neighbors(changes, Some(&said));
        Ok(())
    }

    async fn reap_dead(&self) -> Result<(), Error> {
        let lease = Duration::from_millis(self.options.lease_ms);
        let dead = self.peers.lock().dead(lease);
        for name in dead.iter().filter(|name| **name != self.consumer).take(MAX_REAPED) {
            if self.reap(name).await? {
                tracing::info!(consumer = name, "a consumer that is dead and holds nothing was forgotten");
            }
        }
        Ok(())
    }

    /// Forgets a consumer if it holds nothing; false if it does.
    pub(super) async fn reap(&self, consumer: &str) -> Result<bool, CallFailure> {
        let (_, answer) = self
            .with_all_lanes(|book| {
                self.script(&self.scripts.reap)
                    .number(book.set_size)
                    .number(book.lanes.len())
                    .text(consumer)
                    .lane_keys(&self.keys, &book.lanes)
            })
            .await?;
        let is_reaped = reply::text(answer)? == "DONE";
        if is_reaped {
            self.peers.lock().forget(consumer);
        }
        Ok(is_reaped)
    }

    /// Forgets processed events past their retention, of the lane that has the most first; false when none is left.
    async fn trim(&self) -> Result<bool, CallFailure> {
        let call = self
            .script(&self.scripts.trim)
            .number(self.options.retention.processed_max)
            .number(self.options.retention.processed_ms)
            .number(self.tuning.least_retention_ms)
            .number(MAX_FORGOTTEN)
            .number(MAX_LOOKED_AT_BYTES)
            .number(self.max_kept_bytes())
            .named_lanes(&self.keys, &self.book().lanes);
        Ok(reply::count(&self.link.call(&call).await?)? > 0)
    }
}

/// What a step brought, or nothing if it failed for a reason of its own; the first such error is kept. What would fail the
/// other steps as well is an error at once.
fn go_on<T, E: Into<Error>>(first_error: &mut Option<Error>, step: Result<T, E>) -> Result<Option<T>, Error> {
    match step.map_err(Into::into) {
        Ok(brought) => Ok(Some(brought)),
        Err(error @ Error::Unavailable { .. }) => Err(error),
        Err(error) => {
            first_error.get_or_insert(error);
            Ok(None)
        }
    }
}

/// What a promotion came to, from the number of events moved and the time until the next, negative if there is none.
pub(super) fn promoted(moved: &Value, wait_ms: &Value) -> Result<PromoteOutcome, Error> {
    let moved = reply::place(moved)?;
    let next_due_in_ms = u64::try_from(reply::int(wait_ms)?).ok();
    Ok(PromoteOutcome { moved, more: next_due_in_ms == Some(0), next_due_in_ms })
}
