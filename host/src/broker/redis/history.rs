//! Finds and lists events, counts them, and replays or discards failed ones.
//!
//! An event is in one place at a time, and the index names it.
//!
//! Matching events may be rare, and entries may be large. So each script call of a list reads a bounded number of bytes and
//! returns only what matches. Between two calls, Redis has as much time for other clients as a call took. A page also ends
//! after a bounded number of bytes, even if nothing matched.

mod totals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::totals::{RedisTotals, read_totals};
use super::capacity::StoreCapacity;
use super::client::StoreClient;
use super::codec;
use super::codec::ending::failed_ending;
use super::connection::reply;
use super::entry::{parse_name, read_fields, read_head, read_record};
use super::lanes::LaneDirectory;
use super::scripts::ScriptCall;
use crate::broker::list_limiter::ListLimiter;
use crate::broker::{
    AuditNote, BrokerStats, EndKind, EndedPage, EndedQuery, Error, FailedEventChange, FoundEvent, Lane, MAX_PAGE_BYTES,
    QueueDepth,
};
use crate::clock;
use crate::event::{EventId, EventRecord, EventState, FailureClass, Timestamp};

/// The most entries and bytes that one call reads. The entry that exceeds the bytes is read as well.
const MAX_ENTRIES_PER_CALL: usize = 250;
const MAX_READ_PER_CALL_BYTES: usize = 1024 * 1024;
/// The most entries and bytes that one page reads.
const MAX_ENTRIES_PER_PAGE: usize = 2_500;
const MAX_READ_PER_PAGE_BYTES: usize = 16 * 1024 * 1024;
/// The most events of a page.
const MAX_EVENTS_PER_PAGE: usize = 1_000;
/// The longest pause between two calls.
const MAX_PAUSE: Duration = Duration::from_millis(20);
/// How far the store's clock, which names entries, may differ from the host's, which sets the time of an end.
const CLOCK_SLACK_MS: i64 = 60 * 60 * 1_000;

/// An event as it was found, with its entry if it has one.
pub(super) struct LocatedEvent {
    pub(super) found: FoundEvent,
    entry: String,
    /// What the index said of it. The receipt in it is no text.
    pub(super) place: Bytes,
}

/// Reads events and totals.
pub(super) struct EventHistory {
    pub(super) client: Arc<StoreClient>,
    pub(super) lanes: Arc<LaneDirectory>,
    pub(super) capacity: Arc<StoreCapacity>,
    pub(super) lists: ListLimiter,
}

impl EventHistory {
    /// Finds one event in any state.
    pub(super) async fn find_event(&self, id: EventId) -> Result<Option<FoundEvent>, Error> {
        Ok(self.locate_event(id).await?.map(|located| located.found))
    }

    /// Finds one event and where it is.
    pub(super) async fn locate_event(&self, id: EventId) -> Result<Option<LocatedEvent>, Error> {
        let client = &self.client;
        let (_, reply) = self
            .lanes
            .call_with_all(|known| {
                let mut call = client
                    .script_call(&client.scripts.find)
                    .number(known.set_size)
                    .text(&id.to_string())
                    .named_lanes(&client.keys, &known.lanes);
                call.push_key(client.keys.discarded());
                call
            })
            .await?;
        let [kind, blob, due_ms, entry, place] = reply::tuple(reply)?;
        let Some(blob) = reply::bytes(blob)? else { return Ok(None) };
        let record = codec::decode(&blob)?;
        let state = match reply::text(kind)?.as_str() {
            "q" => EventState::Queued,
            "r" => EventState::Running,
            "p" => EventState::Processed,
            "f" => EventState::Failed,
            "x" => EventState::Discarded,
            _ => record.state_until_due(),
        };
        let is_due_later = matches!(state, EventState::Scheduled | EventState::Retrying);
        let due = is_due_later.then_some(Timestamp::from_unix_ms(reply::int(&due_ms)?));
        let (entry, place) = (reply::text(entry)?, reply::bytes(place)?.unwrap_or_default());
        Ok(Some(LocatedEvent { found: FoundEvent { record, state, due }, entry, place }))
    }

    /// Moves a failed event back to a lane.
    pub(super) async fn replay(
        &self,
        id: EventId,
        lane: &Lane,
        audit: Option<&AuditNote>,
    ) -> Result<FailedEventChange, Error> {
        self.lanes.make(self.lanes.find_missing([lane])).await?;
        self.take_failed(id, Some(lane), audit, EventRecord::replayed).await
    }

    /// Ends a failed event for good.
    pub(super) async fn discard(
        &self,
        id: EventId,
        reason: &str,
        audit: Option<&AuditNote>,
    ) -> Result<FailedEventChange, Error> {
        self.take_failed(id, None, audit, |record| record.discarded(clock::now(), reason)).await
    }

    /// Moves a failed event to a lane, or to the discarded events if there is no lane.
    async fn take_failed(
        &self,
        id: EventId,
        lane: Option<&Lane>,
        audit: Option<&AuditNote>,
        change: impl FnOnce(EventRecord) -> EventRecord,
    ) -> Result<FailedEventChange, Error> {
        let not_failed = |located: LocatedEvent| FailedEventChange::NotFailed(located.found.state);
        let located = match self.locate_event(id).await? {
            Some(located) if located.found.state == EventState::Failed => located,
            other => return Ok(other.map_or(FailedEventChange::Unknown, not_failed)),
        };
        let blob = codec::encode(&change(located.found.record), self.client.record_version())?;
        let client = &self.client;
        let mut call = client
            .script_call(&client.scripts.take_failed)
            .text(&id.to_string())
            .text(&located.entry)
            .text(lane.map_or("", Lane::as_str))
            .text(&format!("{:016x}", fastrand::u64(..)));
        call.push_key(lane.map_or_else(|| client.keys.discarded(), |lane| client.keys.lane(lane)));
        call.push_bytes(blob);
        call.push_audit(&client.keys, audit.map(AuditNote::encode).transpose()?.as_deref());
        if reply::text(client.link.call_until_known(&call).await?)? == "D" {
            return Ok(FailedEventChange::Done);
        }
        // Another call took it in between.
        Ok(self.locate_event(id).await?.map_or(FailedEventChange::Unknown, not_failed))
    }

    /// Reads the totals, and notes the bytes of each lane for the limits.
    pub(super) async fn read_stats(&self) -> Result<BrokerStats, Error> {
        let client = &self.client;
        let (known, reply) = self
            .lanes
            .call_with_all(|known| {
                client
                    .script_call(&client.scripts.stats)
                    .lane_keys(&client.keys, &known.lanes)
                    .number(known.set_size)
                    .number(known.lanes.len())
            })
            .await?;
        let [counts, lengths, running, scheduled, done, failed, consumers, all_lengths] = reply::tuple(reply)?;
        let lengths = reply::array(lengths)?.iter().map(reply::count).collect::<Result<Vec<_>, _>>()?;
        let all_lengths = reply::array(all_lengths)?.iter().map(reply::count).collect::<Result<Vec<_>, _>>()?;
        let names = || known.lanes.iter().map(|lane| lane.as_str().to_owned());
        let queued = names().zip(lengths).collect();
        let RedisTotals {
            counters,
            state_keys,
            due,
            waiting_bytes,
            failed_bytes,
            kept_bytes,
            idempotency_bytes,
            state_bytes,
        } = read_totals(counts)?;
        let later = |name: &String| due.get(name).copied().unwrap_or(0);
        let waiting_by_lane = names().zip(all_lengths).map(|(name, all)| {
            let later = later(&name);
            (name, all + later)
        });
        let depth = QueueDepth {
            queued,
            waiting_by_lane: waiting_by_lane.collect(),
            waiting_bytes_by_lane: waiting_bytes,
            failed_bytes_by_lane: failed_bytes,
            max_lane_bytes: Some(self.capacity.most_lane_bytes()),
            lane_share_bytes: self.capacity.share_bytes(),
            max_history_bytes: Some(self.capacity.max_history_bytes()),
            kept_bytes_by_lane: kept_bytes,
            idempotency_bytes_by_lane: idempotency_bytes,
            max_idempotency_bytes: Some(self.capacity.max_idempotency_bytes()),
            running: reply::count(&running)?,
            scheduled: reply::count(&scheduled)?,
            processed_kept: reply::count(&done)?,
            failed_kept: reply::count(&failed)?,
            state_keys,
            consumers: reply::count(&consumers)?,
        };
        self.capacity.note_depth(&depth, &state_bytes);
        Ok(BrokerStats { counters, depth })
    }

    /// Reads one page of ended events.
    pub(super) async fn list_ended(&self, query: EndedQuery) -> Result<EndedPage, Error> {
        let mut page = EndedPage { records: Vec::new(), next_cursor: None };
        let Some(mut from) = first_entry(&query)? else { return Ok(page) };
        // Only the automatic replay asks for heads, and it reads one list at a time.
        let _turn = if query.only_heads { None } else { Some(self.lists.enter().await?) };
        let limit = query.limit.clamp(1, MAX_EVENTS_PER_PAGE);
        let (mut size_bytes, mut entry_allowance_used, mut read_bytes) = (0, 0, 0);
        loop {
            let began = Instant::now();
            let call = self.list_call(&query, &from, limit - page.records.len());
            let [last, bytes, is_end, rows] = reply::tuple(self.client.call(&call).await?)?;
            for row in reply::array(rows)? {
                let [_, fields] = reply::tuple(row)?;
                let fields = read_fields(fields)?;
                let read = if query.only_heads { read_head(&fields) } else { read_record(&fields) };
                match read {
                    Ok(record) if matches(&record, &query) => {
                        size_bytes += record.size_bytes();
                        page.records.push(record);
                    }
                    Ok(_) => {}
                    Err(error) => self
                        .client
                        .troubles()
                        .warn("unreadable-end", || format!("an ended event cannot be read: {error}")),
                }
            }
            let last = reply::text(last)?;
            if last.is_empty() || reply::count(&is_end)? == 1 {
                return Ok(page);
            }
            from = format!("({last}");
            entry_allowance_used += MAX_ENTRIES_PER_CALL;
            read_bytes += usize::try_from(reply::count(&bytes)?).unwrap_or(usize::MAX);
            let is_full = page.records.len() >= limit || size_bytes >= MAX_PAGE_BYTES;
            if is_full || entry_allowance_used >= MAX_ENTRIES_PER_PAGE || read_bytes >= MAX_READ_PER_PAGE_BYTES {
                page.next_cursor = Some(last);
                return Ok(page);
            }
            tokio::time::sleep(began.elapsed().min(MAX_PAUSE)).await;
        }
    }

    fn list_call(&self, query: &EndedQuery, from: &str, max_rows: usize) -> ScriptCall<'_> {
        let client = &self.client;
        let mut call = client.script_call(&client.scripts.list);
        call.push_key(match query.ending {
            EndKind::Processed => client.keys.done().clone(),
            EndKind::Failed => client.keys.failed().clone(),
        });
        let is_failed = query.ending == EndKind::Failed;
        let (class, lane) = (query.class.filter(|_| is_failed), query.lane.as_ref().filter(|_| is_failed));
        let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        call.text(from)
            .text(&last_entry(query.since))
            .number(MAX_ENTRIES_PER_CALL)
            .number(MAX_READ_PER_CALL_BYTES)
            .number(max_rows)
            .number(u8::from(query.only_heads))
            .text(query.event_type.as_ref().map_or("", |wanted| wanted.as_str()))
            .text(class.map_or("", FailureClass::as_str))
            .text(&time(query.since))
            .text(&time(query.until))
            .text(lane.map_or("", Lane::as_str))
            .text(&number(class.map(|class| i64::from(failed_ending(class)))))
            .text(&number(query.since.map(Timestamp::unix_ms)))
            .text(&number(query.until.map(Timestamp::unix_ms)))
    }
}

/// Where the page begins, as a range of Redis; `None` if no entry can be before the cursor.
///
/// # Errors
/// [`Error::BadCursor`] if the cursor is not the name of an entry.
fn first_entry(query: &EndedQuery) -> Result<Option<String>, Error> {
    match (&query.cursor, query.until) {
        (Some(cursor), _) => {
            let before = parse_name(cursor)?;
            // Redis refuses a range that excludes the lowest name.
            Ok((before > (0, 0)).then(|| format!("({}-{}", before.0, before.1)))
        }
        (None, Some(until)) => Ok(Some(until.unix_ms().saturating_add(CLOCK_SLACK_MS).to_string())),
        (None, None) => Ok(Some("+".into())),
    }
}

/// Where the list ends, as a range of Redis. Every event of an older entry ended before `since`, unless the clocks differ
/// by more than [`CLOCK_SLACK_MS`].
fn last_entry(since: Option<Timestamp>) -> String {
    match since.map_or(0, |since| since.unix_ms().saturating_sub(CLOCK_SLACK_MS)) {
        ms if ms > 0 => ms.to_string(),
        _ => "-".into(),
    }
}

/// True if a record matches the query. The script filters out most others, but returns what it cannot parse.
fn matches(record: &EventRecord, query: &EndedQuery) -> bool {
    let Some(end) = &record.end else { return false };
    let class = end.failure.as_ref().map(|(class, _)| *class);
    query.event_type.as_ref().is_none_or(|wanted| *wanted == record.event.event_type)
        && (query.class.is_none() || query.ending == EndKind::Processed || query.class == class)
        && query.since.is_none_or(|since| end.at >= since)
        && query.until.is_none_or(|until| end.at < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> EndedQuery {
        EndedQuery::all(EndKind::Failed, 10)
    }

    #[test]
    fn a_page_begins_at_its_cursor_or_at_until_or_at_the_newest_entry() {
        let until = Some(Timestamp::from_unix_ms(1_000));
        let at = |cursor: &str| first_entry(&EndedQuery { cursor: Some(cursor.into()), until, ..query() });
        assert_eq!(first_entry(&query()), Ok(Some("+".into())));
        assert_eq!(first_entry(&EndedQuery { until, ..query() }), Ok(Some("3601000".into())));
        assert_eq!(at("5-1"), Ok(Some("(5-1".into())));
        assert_eq!((at("0-1"), at("00-00")), (Ok(Some("(0-1".into())), Ok(None)));
        for nonsense in ["", "x", "5", "5-1-2", "-", "5-\r\n"] {
            assert_eq!(at(nonsense), Err(Error::BadCursor), "{nonsense:?}");
        }
    }

    #[test]
    fn a_list_ends_well_before_since() {
        assert_eq!(last_entry(None), "-");
        assert_eq!(last_entry(Some(Timestamp::from_unix_ms(CLOCK_SLACK_MS))), "-");
        assert_eq!(last_entry(Some(Timestamp::from_unix_ms(CLOCK_SLACK_MS + 10))), "10");
    }
}
