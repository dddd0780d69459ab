//! Lists ended events page by page, newest first.
//!
//! Matching events may be rare, and entries may be large. So each script call reads a bounded number of bytes and returns
//! only what matches. Between two calls, Redis has as much time for other clients as a call took. A page also ends after
//! a bounded number of bytes, even if nothing matched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::StoreClient;
use super::connection::reply;
use super::entry::{read_fields, read_head, read_record};
use super::scripts::ScriptCall;
use crate::broker::list_limiter::ListLimiter;
use crate::broker::{EndKind, EndedPage, EndedQuery, Error, Lane, MAX_PAGE_BYTES};
use crate::event::{EventRecord, FailureClass, Timestamp};

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

/// Lists ended events.
pub(super) struct EndedEvents {
    pub(super) client: Arc<StoreClient>,
    pub(super) lists: ListLimiter,
}

impl EndedEvents {
    /// Reads one page.
    pub(super) async fn read_page(&self, query: EndedQuery) -> Result<EndedPage, Error> {
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
    }
}

/// Where the page begins, as a range of Redis; `None` if no entry can be before the cursor.
///
/// # Errors
/// [`Error::BadCursor`] if the cursor is not the name of an entry.
fn first_entry(query: &EndedQuery) -> Result<Option<String>, Error> {
    let number = |part: &str| part.parse::<u64>().map_err(|_| Error::BadCursor);
    match (&query.cursor, query.until) {
        (Some(cursor), _) => {
            let (ms, sequence) = cursor.split_once('-').ok_or(Error::BadCursor)?;
            let before = (number(ms)?, number(sequence)?);
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
