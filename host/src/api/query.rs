//! Reads the queries of requests.
//!
//! An unknown parameter is refused: if it were ignored, a misspelled filter would return every event.

use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};

use crate::broker::{AuditQuery, EndKind, EndedQuery};
use crate::event::{EventFault, FailureClass, Timestamp};

use super::problem::{Problem, ProblemKind};

/// The events of a page where the query has no limit.
const DEFAULT_LIMIT: usize = 50;
/// The most events of a page.
const MAX_LIMIT: usize = 1_000;
/// The longest reason of a change, in characters.
pub(super) const MAX_REASON_CHARS: usize = 1_000;
/// The longest text that entries of the audit are filtered by.
const MAX_FILTER_BYTES: usize = 256;
/// The longest cursor.
const MAX_CURSOR_CHARS: usize = 256;

/// Reads the query of a list of ended events.
///
/// # Errors
/// [`ProblemKind::BadQuery`] with every fault.
pub(super) fn parse_ended_query(query: Option<&str>, ending: EndKind) -> Result<EndedQuery, Problem> {
    let known: &[&str] = match ending {
        EndKind::Processed => &["type", "since", "until", "limit", "cursor"],
        EndKind::Failed => &["type", "class", "plugin", "since", "until", "limit", "cursor"],
    };
    let mut parsed = EndedQuery::all(ending, DEFAULT_LIMIT);
    read_parameters(query, known, |name, value| match name {
        "type" => value.parse().map(|it| parsed.event_type = Some(it)).map_err(|error| format!("{error}")),
        "class" => parse_class(&value).map(|it| parsed.class = Some(it)),
        "plugin" => value.parse().map(|it| parsed.lane = Some(it)).map_err(|error| format!("{error}")),
        "since" => parse_time(&value).map(|it| parsed.since = Some(it)),
        "until" => parse_time(&value).map(|it| parsed.until = Some(it)),
        "limit" => parse_limit(&value).map(|it| parsed.limit = it),
        _ => parse_cursor(&value).map(|it| parsed.cursor = Some(it)),
    })?;
    Ok(parsed)
}

/// Reads the query of the audit.
///
/// # Errors
/// [`ProblemKind::BadQuery`] with every fault.
pub(super) fn parse_audit_query(query: Option<&str>) -> Result<AuditQuery, Problem> {
    const KNOWN: [&str; 7] = ["action", "by", "target", "since", "until", "limit", "cursor"];
    let mut parsed = AuditQuery { limit: DEFAULT_LIMIT, ..AuditQuery::default() };
    read_parameters(query, &KNOWN, |name, value| match name {
        "action" => parse_filter(value).map(|it| parsed.action = Some(it)),
        "by" => parse_filter(value).map(|it| parsed.by = Some(it)),
        "target" => parse_filter(value).map(|it| parsed.target = Some(it)),
        "since" => parse_time(&value).map(|it| parsed.since = Some(it)),
        "until" => parse_time(&value).map(|it| parsed.until = Some(it)),
        "limit" => parse_limit(&value).map(|it| parsed.limit = it),
        _ => parse_cursor(&value).map(|it| parsed.cursor = Some(it)),
    })?;
    Ok(parsed)
}

/// Reads the query of a removal: perhaps a flag, as [`parse_flag`] does, and perhaps why.
///
/// # Errors
/// [`ProblemKind::BadQuery`] for any other parameter or value.
pub(super) fn parse_removal(query: Option<&str>, flag: Option<&str>) -> Result<(bool, Option<String>), Problem> {
    let known: Vec<&str> = flag.into_iter().chain(["reason"]).collect();
    let (mut is_set, mut reason) = (false, None);
    read_parameters(query, &known, |name, value| match (name, value.trim()) {
        ("reason", text) if !text.is_empty() && text.chars().count() <= MAX_REASON_CHARS => {
            reason = Some(text.to_owned());
            Ok(())
        }
        ("reason", _) => Err(format!("a reason has 1 to {MAX_REASON_CHARS} characters")),
        (flag, value) => read_flag(flag, value).map(|()| is_set = true),
    })?;
    Ok((is_set, reason))
}

/// Reads a query that may have one flag, written `?name` or `?name=true`.
///
/// # Errors
/// [`ProblemKind::BadQuery`] for any other parameter or value.
pub(super) fn parse_flag(query: Option<&str>, name: &str) -> Result<bool, Problem> {
    let Some(value) = parse_value(query, name)? else { return Ok(false) };
    let fault = read_flag(name, &value).err().map(|message| EventFault::new(name.to_owned(), message));
    refuse_faults(fault.into_iter().collect())?;
    Ok(true)
}

/// Reads a query that may have one parameter, and returns its value.
///
/// # Errors
/// [`ProblemKind::BadQuery`] for any other parameter.
pub(super) fn parse_value(query: Option<&str>, name: &str) -> Result<Option<String>, Problem> {
    let mut faults = Vec::new();
    let given = known_parameters(query, &[name], &mut faults);
    refuse_faults(faults)?;
    Ok(given.into_iter().next().map(|(_, value)| value))
}

/// Refuses a query that has any parameter.
///
/// # Errors
/// [`ProblemKind::BadQuery`].
pub(super) fn refuse_parameters(query: Option<&str>) -> Result<(), Problem> {
    let mut faults = Vec::new();
    known_parameters(query, &[], &mut faults);
    refuse_faults(faults)
}

/// Hands each known parameter to `read`, and refuses the query with every fault.
fn read_parameters(
    query: Option<&str>,
    known: &[&str],
    mut read: impl FnMut(&str, String) -> Result<(), String>,
) -> Result<(), Problem> {
    let mut faults = Vec::new();
    for (name, value) in known_parameters(query, known, &mut faults) {
        faults.extend(read(&name, value).err().map(|message| EventFault::new(name, message)));
    }
    refuse_faults(faults)
}

fn read_flag(name: &str, value: &str) -> Result<(), String> {
    match value {
        "" | "true" => Ok(()),
        _ => Err(format!("{value:?} is not a value of this parameter; write ?{name}")),
    }
}

fn parse_time(value: &str) -> Result<Timestamp, String> {
    value.parse().map_err(|error| match value.contains(' ') {
        true => format!("{error}; a + in an address stands for a space; write %2B"),
        false => format!("{error}"),
    })
}

/// The parameters that are known. One that is unknown or occurs twice is a fault.
fn known_parameters(query: Option<&str>, known: &[&str], faults: &mut Vec<EventFault>) -> Vec<(String, String)> {
    let Some(query) = query else { return Vec::new() };
    let uri = format!("/?{query}").parse::<axum::http::Uri>().unwrap_or_default();
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
    let Ok(axum::extract::Query(pairs)) = pairs else {
        faults.push(EventFault::new("", "the query is not made of names and values"));
        return Vec::new();
    };
    let mut accepted: Vec<(String, String)> = Vec::new();
    for (name, value) in pairs {
        if !known.contains(&name.as_str()) {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            faults.push(EventFault::new(name, format!("no such parameter; there are: {known}")));
        } else if accepted.iter().any(|(earlier, _)| *earlier == name) {
            faults.push(EventFault::new(name, "this parameter occurs twice"));
        } else {
            accepted.push((name, value));
        }
    }
    accepted
}

fn refuse_faults(faults: Vec<EventFault>) -> Result<(), Problem> {
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Problem::new(ProblemKind::BadQuery, "the query is not understood").with_errors(faults)),
    }
}

fn parse_class(value: &str) -> Result<FailureClass, String> {
    FailureClass::deserialize(StrDeserializer::<ValueError>::new(value)).map_err(|_| {
        let classes: Vec<_> = FailureClass::ALL.iter().map(|class| class.as_str()).collect();
        format!("a class is one of {}", classes.join(", "))
    })
}

fn parse_filter(value: String) -> Result<String, String> {
    match !value.is_empty() && value.len() <= MAX_FILTER_BYTES {
        true => Ok(value),
        false => Err(format!("must have 1 to {MAX_FILTER_BYTES} bytes")),
    }
}

fn parse_limit(value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    number.ok_or_else(|| format!("a limit is a whole number from 1 to {MAX_LIMIT}"))
}

fn parse_cursor(value: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    match !value.is_empty() && value.len() <= MAX_CURSOR_CHARS && value.chars().all(fits) {
        true => Ok(value.to_owned()),
        false => Err("a cursor is what an earlier answer gave as nextCursor".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whole() {
        let query = "type=order.paid&class=no-handler&plugin=orders&since=2026-11-23T15:04:05Z&until=2026-11-23T16:04:05%2B01:00&limit=7&cursor=1-2";
        let parsed = parse_ended_query(Some(query), EndKind::Failed).unwrap();
        assert_eq!(parsed.event_type, "order.paid".parse().ok());
        assert_eq!(parsed.class, Some(FailureClass::NoHandler));
        assert_eq!(parsed.lane, "orders".parse().ok());
        assert_eq!(parsed.since, parsed.until);
        assert!(parsed.since.is_some());
        assert_eq!((parsed.limit, parsed.cursor.as_deref()), (7, Some("1-2")));
        assert_eq!(parse_ended_query(None, EndKind::Processed).unwrap().limit, DEFAULT_LIMIT);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "tpye=a",
            "type=a%20b",
            "class=x",
            "plugin=-",
            "since=today",
            "until=1",
            "limit=0",
            "limit=1001",
            "limit=x",
            "cursor=",
            "cursor=a%0Ab",
            "limit=1&limit=2",
            "type",
        ] {
            assert!(parse_ended_query(Some(bad), EndKind::Failed).is_err(), "{bad:?}");
        }
        assert!(parse_ended_query(Some("class=trap"), EndKind::Processed).is_err(), "only failed events have a class");
        assert!(parse_ended_query(Some("plugin=a"), EndKind::Processed).is_err(), "processed events are in no lane");
        let refused = |query| refuse_parameters(query).is_err();
        assert!(refused(Some("x=1")) && !refused(None) && !refused(Some("")));
        let removal = |query| parse_removal(Some(query), Some("state"));
        assert_eq!(removal("state&reason=of%20no%20use").unwrap(), (true, Some("of no use".into())));
        assert_eq!(removal("").unwrap(), (false, None));
        assert!(removal("state=no").is_err() && removal("reason=").is_err() && removal("why=x").is_err());
        let audit =
            parse_audit_query(Some("action=key&by=key:ops&target=a&since=2026-11-23T15:04:05Z&limit=7")).unwrap();
        assert_eq!((audit.action.as_deref(), audit.by.as_deref(), audit.limit), (Some("key"), Some("key:ops"), 7));
        for wrong in ["action=", "since=today", "who=x", "limit=0"] {
            assert!(parse_audit_query(Some(wrong)).is_err(), "{wrong}");
        }
        let flag = |query| parse_flag(query, "verbose");
        assert!(flag(Some("verbose")).unwrap() && !flag(None).unwrap());
        assert!(flag(Some("verbose=no")).is_err() && flag(Some("verbos")).is_err());
    }
}
