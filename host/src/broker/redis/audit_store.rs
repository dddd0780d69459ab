//! The audit: one stream with an entry for each change. The script that makes a change adds its entry.

use async_trait::async_trait;
use redis::Value;

use super::RedisBroker;
use super::connection::{CallFailure, reply};
use super::entry::parse_name;
use crate::broker::audit::MAX_EXAMINED_ENTRIES;
use crate::broker::{AuditEntry, AuditNote, AuditPage, AuditQuery, AuditStore, Error};

/// The most entries that one call reads.
const MAX_ENTRIES_PER_CALL: usize = 250;

#[async_trait]
impl AuditStore for RedisBroker {
    async fn list_audit(&self, query: AuditQuery) -> Result<AuditPage, Error> {
        let mut from = match &query.cursor {
            None => "+".to_owned(),
            Some(cursor) => range_before(cursor)?,
        };
        let to = query.since.map_or(0, |since| since.unix_ms().max(0)).to_string();
        let _turn = self.history.lists.enter().await?;
        let client = &self.client;
        let mut page = AuditPage::default();
        for _ in 0..MAX_EXAMINED_ENTRIES / MAX_ENTRIES_PER_CALL {
            let mut call =
                client.script_call(&client.scripts.audit_read).text(&from).text(&to).number(MAX_ENTRIES_PER_CALL);
            call.push_key(client.keys.audit());
            let rows = reply::array(client.call(&call).await?)?;
            let is_end = rows.len() < MAX_ENTRIES_PER_CALL;
            for row in rows {
                let (name, entry) = read_row(row)?;
                match entry {
                    Some(entry) if query.matches(&entry) => page.entries.push(entry),
                    Some(_) => {}
                    None => client
                        .troubles()
                        .warn("unreadable-audit", || format!("the entry {name} of the audit cannot be read")),
                }
                from = range_before(&name)?;
                if page.entries.len() == query.page_limit() {
                    page.next_cursor = Some(name);
                    return Ok(page);
                }
                page.next_cursor = Some(name);
            }
            if is_end {
                page.next_cursor = None;
                return Ok(page);
            }
        }
        Ok(page)
    }

    async fn write_audit(&self, note: &AuditNote) -> Result<(), Error> {
        let client = &self.client;
        let mut call = client.script_call(&client.scripts.audit_write);
        call.push_audit(&client.keys, Some(&note.encode()?));
        client.call(&call).await?;
        Ok(())
    }
}

/// The name of an entry, and what it says unless that is damaged.
fn read_row(row: Value) -> Result<(String, Option<AuditEntry>), CallFailure> {
    let [name, fields] = reply::tuple(row)?;
    let name = reply::text(name)?;
    let at_ms = name.split_once('-').and_then(|(ms, _)| ms.parse().ok()).unwrap_or_default();
    let mut note = None;
    for (field, value) in reply::pairs(fields)? {
        if reply::bytes(field)?.as_deref() == Some(b"note") {
            note = reply::bytes(value)?;
        }
    }
    Ok((name, note.and_then(|note| AuditEntry::decode(at_ms, &note))))
}

/// The range of Redis that ends before an entry.
///
/// # Errors
/// [`Error::BadCursor`] if the text is not the name of an entry.
fn range_before(name: &str) -> Result<String, Error> {
    let before = parse_name(name)?;
    // Redis refuses a range that excludes the lowest name, and no entry has it.
    Ok(if before == (0, 0) { "0-0".into() } else { format!("({}-{}", before.0, before.1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_the_name_of_an_entry() {
        assert_eq!(range_before("5-1"), Ok("(5-1".into()));
        assert_eq!(range_before("00-0"), Ok("0-0".into()));
        for nonsense in ["", "x", "5", "5-1-2", "-", "5-\r\n", "+5-1 "] {
            assert_eq!(range_before(nonsense), Err(Error::BadCursor), "{nonsense:?}");
        }
    }
}
