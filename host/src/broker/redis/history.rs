//! Looking at events: one in whatever state, those that ended, and totals. And putting failed ones back to work.
//!
//! An event is in one place at a time, and the index knows which. Nothing here changes anything but [`Core::replay`].

use redis::Value;

use super::codec;
use super::core::Core;
use super::entry::{read_fields, read_record};
use super::fault::Failure;
use super::reply;
use crate::broker::{
    Counters, Depth, EndedPage, EndedQuery, Ending, Error, Found, Lane, MAX_PAGE_BYTES, Replayed, Stats,
};
use crate::event::{Class, EventId, Record, State, Timestamp};

/// Entries read at a time, and the most that one page looks at.
const READ_AT_A_TIME: usize = 100;
const MOST_READ: usize = 1_000;
/// The largest page.
const MAX_PAGE: usize = 1_000;
/// The entry's own time is the store's, the end's is the host's; a filter on the end's time may be cut short by the
/// entry's only with this much to spare.
const CLOCK_SLACK_MS: i64 = 60 * 60 * 1_000;

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
            _ if record.attempts_made == 0 && record.attempts.is_empty() => State::Scheduled,
            _ => State::Retrying,
        };
        let is_due_later = matches!(state, State::Scheduled | State::Retrying);
        let due = is_due_later.then_some(Timestamp::from_unix_ms(reply::int(&due_ms)?));
        Ok(Some(Located { found: Found { record, state, due }, entry: reply::text(entry)? }))
    }

    /// See [`crate::broker::Broker::ended`].
    pub(super) async fn ended(&self, query: EndedQuery) -> Result<EndedPage, Error> {
        let key = match query.ending {
            Ending::Processed => self.keys.done(),
            Ending::Failed => self.keys.failed(),
        };
        let limit = query.limit.clamp(1, MAX_PAGE);
        let Some(mut end) = first_end(&query)? else { return Ok(EndedPage { records: Vec::new(), next_cursor: None }) };
        let (mut records, mut size_bytes) = (Vec::new(), 0);
        let mut read = 0;
        loop {
            let mut ask = redis::cmd("XREVRANGE");
            ask.arg(key.as_ref()).arg(&end).arg("-").arg("COUNT").arg(READ_AT_A_TIME);
            let entries = reply::array(self.link.command(&ask).await?)?;
            let is_last = entries.len() < READ_AT_A_TIME;
            for entry in entries {
                let [entry, fields] = reply::tuple(entry)?;
                let entry = reply::text(entry)?;
                end = format!("({entry}");
                if is_before(&entry, query.since) {
                    return Ok(EndedPage { records, next_cursor: None });
                }
                match read_record(&read_fields(fields)?) {
                    Ok(record) if matches(&record, &query) => {
                        size_bytes += record.size_bytes();
                        records.push(record);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        self.board().remark("unreadable-end", || format!("an ended event cannot be shown: {error}"))
                    }
                }
                if records.len() == limit || size_bytes >= MAX_PAGE_BYTES {
                    return Ok(EndedPage { records, next_cursor: Some(entry) });
                }
            }
            read += READ_AT_A_TIME;
            if is_last {
                return Ok(EndedPage { records, next_cursor: None });
            }
            if read >= MOST_READ {
                let next_cursor = Some(end.trim_start_matches('(').to_owned());
                return Ok(EndedPage { records, next_cursor });
            }
        }
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
        self.refresh_lanes(&[]).await?;
        let book = self.book();
        let call = self.script(&self.scripts.stats).lane_keys(&self.keys, &book.lanes).number(book.lanes.len());
        let [counts, lengths, running, scheduled, done, failed, consumers] =
            reply::tuple(self.link.call(&call).await?)?;
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

/// Where the newest entry of the page may be; `None` if there is none before the cursor.
///
/// # Errors
/// [`Error::BadCursor`]: the cursor is not the name of an entry.
fn first_end(query: &EndedQuery) -> Result<Option<String>, Error> {
    let number = |part: &str| part.parse::<u64>().map_err(|_| Error::BadCursor);
    match (&query.cursor, query.until) {
        (Some(cursor), _) => {
            let (ms, sequence) = cursor.split_once('-').ok_or(Error::BadCursor)?;
            let before = (number(ms)?, number(sequence)?);
            // Redis refuses a range that ends before the first name that there may be.
            Ok((before > (0, 0)).then(|| format!("({}-{}", before.0, before.1)))
        }
        (None, Some(until)) => Ok(Some(until.unix_ms().saturating_add(CLOCK_SLACK_MS).to_string())),
        (None, None) => Ok(Some("+".into())),
    }
}

/// Whether the entry was added so long before this time that its event ended before it as well.
fn is_before(entry: &str, since: Option<Timestamp>) -> bool {
    let Some(since) = since else { return false };
    let added_ms = entry.split('-').next().and_then(|ms| ms.parse::<i64>().ok()).unwrap_or(i64::MAX);
    added_ms.saturating_add(CLOCK_SLACK_MS) < since.unix_ms()
}

fn matches(record: &Record, query: &EndedQuery) -> bool {
    let Some(end) = &record.end else { return false };
    let class = end.failure.as_ref().map(|(class, _)| *class);
    query.event_type.as_ref().is_none_or(|wanted| *wanted == record.event.event_type)
        && (query.class.is_none() || query.ending == Ending::Processed || query.class == class)
        && query.since.is_none_or(|since| end.at >= since)
        && query.until.is_none_or(|until| end.at < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> EndedQuery {
        EndedQuery {
            ending: Ending::Failed,
            event_type: None,
            class: None,
            since: None,
            until: None,
            limit: 10,
            cursor: None,
        }
    }

    #[test]
    fn a_page_begins_at_its_cursor_else_at_its_end_of_time_else_at_the_newest() {
        let until = Some(Timestamp::from_unix_ms(1_000));
        let at = |cursor: &str| first_end(&EndedQuery { cursor: Some(cursor.into()), until, ..query() });
        assert_eq!(first_end(&query()), Ok(Some("+".into())));
        assert_eq!(first_end(&EndedQuery { until, ..query() }), Ok(Some("3601000".into())));
        assert_eq!(at("5-1"), Ok(Some("(5-1".into())));
        assert_eq!((at("0-1"), at("00-00")), (Ok(Some("(0-1".into())), Ok(None)));
        for nonsense in ["", "x", "5", "5-1-2", "-", "5-\r\n"] {
            assert_eq!(at(nonsense), Err(Error::BadCursor), "{nonsense:?}");
        }
    }

    #[test]
    fn reading_ends_only_well_before_the_time_asked_for() {
        let since = Some(Timestamp::from_unix_ms(CLOCK_SLACK_MS + 10));
        assert!(is_before("9-0", since));
        assert!(!is_before("10-0", since));
        assert!(!is_before("9-0", None));
    }
}
