//! Answers of scripts, read piece by piece without trust.
//!
//! Blobs are taken out of the answer without a copy. An answer of another form than expected is an error, never a panic:
//! it may come from a server that only resembles Redis.

use bytes::Bytes;
use redis::Value;

use super::fault::CallFailure;

/// An answer as it came.
pub(super) type RedisReply = Value;

/// The items of an array; nil counts as an empty one.
pub(super) fn array(value: Value) -> Result<Vec<Value>, CallFailure> {
    match value {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        other => Err(unexpected("an array", &other)),
    }
}

/// Exactly so many items.
pub(super) fn tuple<const N: usize>(value: Value) -> Result<[Value; N], CallFailure> {
    let items = array(value)?;
    let found = items.len();
    items.try_into().map_err(|_| CallFailure::not_understood(format!("Redis answered {found} values, not {N}")))
}

/// A whole number, also when it is written as text.
pub(super) fn int(value: &Value) -> Result<i64, CallFailure> {
    let parsed = match value {
        Value::Int(n) => Some(*n),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    };
    parsed.ok_or_else(|| unexpected("a number", value))
}

/// A whole number that is not negative; a negative one counts as 0.
pub(super) fn count(value: &Value) -> Result<u64, CallFailure> {
    Ok(u64::try_from(int(value)?).unwrap_or(0))
}

/// A place in a list that was sent.
pub(super) fn place(value: &Value) -> Result<usize, CallFailure> {
    usize::try_from(int(value)?).map_err(|_| unexpected("a place", value))
}

/// Text.
pub(super) fn text(value: Value) -> Result<String, CallFailure> {
    match value {
        Value::BulkString(bytes) => {
            String::from_utf8(bytes).map_err(|_| CallFailure::not_understood("Redis answered bytes where text was due"))
        }
        Value::SimpleString(text) => Ok(text),
        Value::Okay => Ok("OK".into()),
        Value::Int(n) => Ok(n.to_string()),
        other => Err(unexpected("text", &other)),
    }
}

/// Bytes, or none.
pub(super) fn bytes(value: Value) -> Result<Option<Bytes>, CallFailure> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(Bytes::from(bytes))),
        Value::SimpleString(text) => Ok(Some(Bytes::from(text))),
        Value::Okay => Ok(Some(Bytes::from_static(b"OK"))),
        Value::Int(n) => Ok(Some(Bytes::from(n.to_string()))),
        other => Err(unexpected("bytes", &other)),
    }
}

/// Pairs of name and value, as an array that alternates or as a map.
pub(super) fn pairs(value: Value) -> Result<Vec<(Value, Value)>, CallFailure> {
    if let Value::Map(pairs) = value {
        return Ok(pairs);
    }
    let mut items = array(value)?.into_iter();
    let mut pairs = Vec::with_capacity(items.len() / 2);
    while let (Some(name), Some(value)) = (items.next(), items.next()) {
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn unexpected(wanted: &str, found: &Value) -> CallFailure {
    let found = match found {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) => "bytes",
        Value::Array(_) => "an array",
        _ => "something else",
    };
    CallFailure::not_understood(format!("Redis answered {found} where {wanted} was due"))
}
