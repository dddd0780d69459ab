//! The queries of lists: which ended events are wanted.
//!
//! A parameter that is not known is refused and not overlooked: a misspelled filter would else give everything.

use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};

use crate::broker::{EndKind, EndedQuery};
use crate::event::{EventFault, FailureClass, Timestamp};

use super::problem::{Problem, ProblemKind};

/// How many events a page has when the query does not say.
const DEFAULT_LIMIT: usize = 50;
/// The most events of a page.
const MAX_LIMIT: usize = 1_000;
/// The longest cursor.
const MAX_CURSOR_CHARS: usize = 256;

/// Reads the query of a list.
///
/// # Errors
/// [`Kind::BadQuery`] with everything that is wrong.
pub(super) fn ended(query: Option<&str>, ending: EndKind) -> Result<EndedQuery, Problem> {
    let known: &[&str] = match ending {
        EndKind::Processed => &["type", "since", "until", "limit", "cursor"],
        EndKind::Failed => &["type", "class", "since", "until", "limit", "cursor"],
    };
    let mut wanted = EndedQuery::all(ending, DEFAULT_LIMIT);
    let mut faults = Vec::new();
    for (name, value) in pairs(query, known, &mut faults) {
        let read = match name.as_str() {
            "type" => value.parse().map(|it| wanted.event_type = Some(it)).map_err(text),
            "class" => class(&value).map(|it| wanted.class = Some(it)),
            "since" => time(&value).map(|it| wanted.since = Some(it)),
            "until" => time(&value).map(|it| wanted.until = Some(it)),
            "limit" => limit(&value).map(|it| wanted.limit = it),
            _ => cursor(&value).map(|it| wanted.cursor = Some(it)),
        };
        faults.extend(read.err().map(|message| EventFault::new(name, message)));
    }
    refuse(faults)?;
    Ok(wanted)
}

/// Reads a query that may have one parameter, which has no value.
///
/// # Errors
/// [`Kind::BadQuery`] for any other parameter.
pub(super) fn switch(query: Option<&str>, name: &str) -> Result<bool, Problem> {
    let mut faults = Vec::new();
    let given = pairs(query, &[name], &mut faults);
    refuse(faults)?;
    match given.first() {
        None => Ok(false),
        Some((_, value)) if value.is_empty() || value == "true" => Ok(true),
        Some((name, value)) => {
            refuse(vec![EventFault::new(name.clone(), format!("{value:?} is not a value of it; write ?{name}"))])?;
            Ok(false)
        }
    }
}

/// Reads a query that may have one parameter, and its value.
///
/// # Errors
/// [`Kind::BadQuery`] for any other parameter.
pub(super) fn value(query: Option<&str>, name: &str) -> Result<Option<String>, Problem> {
    let mut faults = Vec::new();
    let given = pairs(query, &[name], &mut faults);
    refuse(faults)?;
    Ok(given.into_iter().next().map(|(_, value)| value))
}

/// Refuses any parameter.
pub(super) fn none(query: Option<&str>) -> Result<(), Problem> {
    let mut faults = Vec::new();
    pairs(query, &[], &mut faults);
    refuse(faults)
}

fn time(value: &str) -> Result<Timestamp, String> {
    value.parse().map_err(|error| match value.contains(' ') {
        true => format!("{error}; a + in an address stands for a space, and is written %2B"),
        false => format!("{error}"),
    })
}

/// The known parameters; what is unknown or given twice is a fault.
fn pairs(query: Option<&str>, known: &[&str], faults: &mut Vec<EventFault>) -> Vec<(String, String)> {
    let Some(query) = query else { return Vec::new() };
    let uri = format!("/?{query}").parse::<axum::http::Uri>().unwrap_or_default();
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
    let Ok(axum::extract::Query(pairs)) = pairs else {
        faults.push(EventFault::new("", "the query is not made of names and values"));
        return Vec::new();
    };
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, value) in pairs {
        if !known.contains(&name.as_str()) {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            faults.push(EventFault::new(name, format!("no such parameter; there are: {known}")));
        } else if kept.iter().any(|(earlier, _)| *earlier == name) {
            faults.push(EventFault::new(name, "this parameter occurs twice"));
        } else {
            kept.push((name, value));
        }
    }
    kept
}

fn refuse(faults: Vec<EventFault>) -> Result<(), Problem> {
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Problem::new(ProblemKind::BadQuery, "the query is not understood").with_errors(faults)),
    }
}

fn class(value: &str) -> Result<FailureClass, String> {
    FailureClass::deserialize(StrDeserializer::<ValueError>::new(value)).map_err(|_| {
        let classes: Vec<_> = FailureClass::ALL.iter().map(|class| class.as_str()).collect();
        format!("a class is one of {}", classes.join(", "))
    })
}

fn limit(value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    number.ok_or_else(|| format!("a limit is a whole number from 1 to {MAX_LIMIT}"))
}

fn cursor(value: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    match !value.is_empty() && value.len() <= MAX_CURSOR_CHARS && value.chars().all(fits) {
        true => Ok(value.to_owned()),
        false => Err("a cursor is what an earlier answer gave as nextCursor".into()),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whole() {
        let query = "type=order.paid&class=no-handler&since=2026-11-23T15:04:05Z&until=2026-11-23T16:04:05%2B01:00&limit=7&cursor=1-2";
        let wanted = ended(Some(query), EndKind::Failed).unwrap();
        assert_eq!(wanted.event_type, "order.paid".parse().ok());
        assert_eq!(wanted.class, Some(FailureClass::NoHandler));
        assert_eq!(wanted.since, wanted.until);
        assert!(wanted.since.is_some());
        assert_eq!((wanted.limit, wanted.cursor.as_deref()), (7, Some("1-2")));
        assert_eq!(ended(None, EndKind::Processed).unwrap().limit, DEFAULT_LIMIT);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "tpye=a",
            "type=a%20b",
            "class=x",
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
            assert!(ended(Some(bad), EndKind::Failed).is_err(), "{bad:?}");
        }
        assert!(ended(Some("class=trap"), EndKind::Processed).is_err(), "only failed events have a class");
        assert!(none(Some("x=1")).is_err() && none(None).is_ok() && none(Some("")).is_ok());
        assert!(switch(Some("verbose"), "verbose").unwrap() && !switch(None, "verbose").unwrap());
        assert!(switch(Some("verbose=no"), "verbose").is_err() && switch(Some("verbos"), "verbose").is_err());
    }
}
