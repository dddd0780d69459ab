//! Lists of events that ended, newest first, page by page.
//!
//! What is asked for may be rare, and entries may be large. So a script looks at a bounded number of bytes and answers
//! only what is wanted; Redis does nothing else meanwhile, and has as much time for others between two such calls. A page
//! ends where it has looked at enough, whether or not it found anything.

use std::time::{Duration, Instant};

use super::core::RedisCore;
use super::entry::{read_fields, read_head, read_record};
use super::reply;
use super::scripts::ScriptCall;
use crate::broker::{EndKind, EndedPage, EndedQuery, Error, MAX_PAGE_BYTES};
use crate::event::{EventRecord, FailureClass, Timestamp};

/// The most entries and bytes that one call looks at; the entry that goes past the bytes is looked at as well.
const CALL_ENTRIES: usize = 250;
const CALL_BYTES: usize = 1024 * 1024;
/// The most entries and bytes that one page looks at.
const PAGE_ENTRIES: usize = 2_500;
const PAGE_BYTES: usize = 16 * 1024 * 1024;
/// The most events of a page.
const MAX_PAGE: usize = 1_000;
/// The longest pause between two calls.
const MAX_PAUSE: Duration = Duration::from_millis(20);
/// The entry's own time is the store's, the end's is the host's; a filter on the end's time may be cut short by the
/// entry's only with this much to spare.
const CLOCK_SLACK_MS: i64 = 60 * 60 * 1_000;

impl RedisCore {
    /// See [`crate::broker::EventLog::list_ended`].
    pub(super) async fn ended(&self, query: EndedQuery) -> Result<EndedPage, Error> {
        let mut page = EndedPage { records: Vec::new(), next_cursor: None };
        let Some(mut from) = first_entry(&query)? else { return Ok(page) };
        // Who wants heads only is a host that keeps house, and that does so once at a time.
        let _turn = if query.only_heads { None } else { Some(self.lists.enter().await?) };
        let limit = query.limit.clamp(1, MAX_PAGE);
        let (mut size_bytes, mut entries, mut looked_bytes) = (0, 0, 0);
        loop {
            let began = Instant::now();
            let call = self.list_call(&query, &from, limit - page.records.len());
            let [last, bytes, is_end, rows] = reply::tuple(self.link.call(&call).await?)?;
            for row in reply::array(rows)? {
                let [_, fields] = reply::tuple(row)?;
                let fields = read_fields(fields)?;
                match if query.only_heads { read_head(&fields) } else { read_record(&fields) } {
                    Ok(record) if matches(&record, &query) => {
                        size_bytes += record.size_bytes();
                        page.records.push(record);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        self.board().remark("unreadable-end", || format!("an ended event cannot be shown: {error}"))
                    }
                }
            }
            let last = reply::text(last)?;
            if last.is_empty() || reply::count(&is_end)? == 1 {
                return Ok(page);
            }
            from = format!("({last}");
            entries += CALL_ENTRIES;
            looked_bytes += usize::try_from(reply::count(&bytes)?).unwrap_or(usize::MAX);
            let is_full = page.records.len() >= limit || size_bytes >= MAX_PAGE_BYTES;
            if is_full || entries >= PAGE_ENTRIES || looked_bytes >= PAGE_BYTES {
                page.next_cursor = Some(last);
                return Ok(page);
            }
            tokio::time::sleep(began.elapsed().min(MAX_PAUSE)).await;
        }
    }

    fn list_call(&self, query: &EndedQuery, from: &str, most: usize) -> ScriptCall<'_> {
        let mut call = self.script(&self.scripts.list);
        call.push_key(match query.ending {
            EndKind::Processed => self.keys.done().clone(),
            EndKind::Failed => self.keys.failed().clone(),
        });
        let class = query.class.filter(|_| query.ending == EndKind::Failed);
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        call.text(from)
            .text(&last_entry(query.since))
            .number(CALL_ENTRIES)
            .number(CALL_BYTES)
            .number(most)
            .number(u8::from(query.only_heads))
            .text(query.event_type.as_ref().map_or("", |wanted| wanted.as_str()))
            .text(class.map_or("", FailureClass::as_str))
            .text(&time(query.since))
            .text(&time(query.until))
    }
}

/// Where the newest entry of the page may be; `None` if there is none before the cursor.
///
/// # Errors
/// [`Error::BadCursor`]: the cursor is not the name of an entry.
fn first_entry(query: &EndedQuery) -> Result<Option<String>, Error> {
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

/// Where the oldest entry of the list may be: those before it were added so long before this time that their events ended
/// before it as well.
fn last_entry(since: Option<Timestamp>) -> String {
    match since.map_or(0, |since| since.unix_ms().saturating_sub(CLOCK_SLACK_MS)) {
        ms if ms > 0 => ms.to_string(),
        _ => "-".into(),
    }
}

/// Whether a record is wanted. The script passes over most that are not, and what it does not understand comes here.
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
    fn a_page_begins_at_its_cursor_else_at_its_end_of_time_else_at_the_newest() {
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
    fn a_list_ends_only_well_before_the_time_asked_for() {
        assert_eq!(last_entry(None), "-");
        assert_eq!(last_entry(Some(Timestamp::from_unix_ms(CLOCK_SLACK_MS))), "-");
        assert_eq!(last_entry(Some(Timestamp::from_unix_ms(CLOCK_SLACK_MS + 10))), "10");
    }
}
