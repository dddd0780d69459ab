//! What a person says about a change, in the body of the request: why, and until when.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::keys::parse_duration;
use super::problem::{Problem, ProblemKind};
use super::query::MAX_REASON_CHARS;
use crate::event::{EventFault, Timestamp};

/// What a person says about a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ChangeNote {
    /// Why.
    pub(super) reason: Option<String>,
    /// When the change ends by itself.
    pub(super) until: Option<Timestamp>,
}

/// Reads what a person says about a change: nothing, or an object with some of these members.
///
/// # Errors
/// [`ProblemKind::MalformedBody`]; [`ProblemKind::InvalidChange`] with each fault.
pub(super) fn parse_note(body: &Bytes, known: &[&str], now: Timestamp) -> Result<ChangeNote, Problem> {
    let mut note = ChangeNote::default();
    if body.trim_ascii().is_empty() {
        return Ok(note);
    }
    let members: Map<String, Value> = serde_json::from_slice(body).map_err(|_| {
        let detail = r#"the body must be nothing or a JSON object such as {"reason":"the bank is away"}"#;
        Problem::new(ProblemKind::MalformedBody, detail)
    })?;
    let mut faults = Vec::new();
    for (member, value) in &members {
        let text = value.as_str().map(str::trim);
        let read = match (member.as_str(), text) {
            (name, _) if !known.contains(&name) => Err(format!("this has the members {}", known.join(" and "))),
            (_, None) => Err("must be a text".into()),
            ("reason", Some(text)) if text.is_empty() || text.chars().count() > MAX_REASON_CHARS => {
                Err(format!("a reason has 1 to {MAX_REASON_CHARS} characters"))
            }
            ("reason", Some(text)) => {
                note.reason = Some(text.to_owned());
                Ok(())
            }
            (_, Some(text)) => parse_until(text, now).map(|until| note.until = Some(until)),
        };
        faults.extend(read.err().map(|message| EventFault::new(format!("/{member}"), message)));
    }
    if faults.is_empty() {
        return Ok(note);
    }
    Err(Problem::new(ProblemKind::InvalidChange, "nothing was changed").with_errors(faults))
}

/// Reads the end of a pause: a time, or how long from now.
fn parse_until(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let until = text.parse().or_else(|_| {
        let length =
            parse_duration(text).map_err(|_| r#"say a time such as "2026-11-23T15:00:00Z", or how long: "2h""#)?;
        Ok::<_, String>(now.plus_ms(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)))
    })?;
    if until > now { Ok(until) } else { Err("that time is over".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(body: &str) -> Result<ChangeNote, Problem> {
        parse_note(&Bytes::from(body.to_owned()), &["reason", "until"], Timestamp::from_unix_ms(1_000))
    }

    #[test]
    fn an_end_is_a_time_or_a_length() {
        assert_eq!(note(" ").unwrap(), ChangeNote::default());
        assert_eq!(note(r#"{"reason":" a "}"#).unwrap(), ChangeNote { reason: Some("a".into()), until: None });
        for (until, ms) in [("2h", 7_201_000), ("1970-01-01T00:00:02Z", 2_000)] {
            let found = note(&format!(r#"{{"until":"{until}"}}"#)).unwrap();
            assert_eq!(found.until, Some(Timestamp::from_unix_ms(ms)), "{until}");
        }
        for wrong in ["", "soon", "0s", "1970-01-01T00:00:01Z", "99999y"] {
            assert!(note(&format!(r#"{{"until":"{wrong}"}}"#)).is_err(), "{wrong}");
        }
        for wrong in [r#"{"reason":""}"#, r#"{"reason":7}"#, r#"{"until":null}"#, r#"{"untl":"2h"}"#, "[]", "x"] {
            assert!(note(wrong).is_err(), "{wrong}");
        }
        assert!(note(&format!(r#"{{"reason":"{}"}}"#, "x".repeat(1_001))).is_err());
    }
}
