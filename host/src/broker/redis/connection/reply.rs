//! Reads the replies of commands and scripts.
//!
//! Values are moved out of the reply without a copy. A reply of an unexpected form is an error, never a panic: the
//! server may only resemble Redis.

use bytes::Bytes;
use redis::Value;

use super::fault::CallFailure;

/// A reply as the client library returns it.
pub(in crate::broker::redis) type RedisReply = Value;

/// The items of an array. Nil counts as an empty array.
pub(in crate::broker::redis) fn array(value: Value) -> Result<Vec<Value>, CallFailure> {
    match value {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        other => Err(unexpected("an array", &other)),
    }
}

/// An array of exactly `N` items.
pub(in crate::broker::redis) fn tuple<const N: usize>(value: Value) -> Result<[Value; N], CallFailure> {
    let items = array(value)?;
    let found = items.len();
    items.try_into().map_err(|_| CallFailure::not_understood(format!("Redis answered {found} values, not {N}")))
}

/// An integer, or text that holds one.
pub(in crate::broker::redis) fn int(value: &Value) -> Result<i64, CallFailure> {
    let parsed = match value {
        Value::Int(n) => Some(*n),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    };
    parsed.ok_or_else(|| unexpected("a number", value))
}

/// An integer of at least 0. A negative one counts as 0.
pub(in crate::broker::redis) fn count(value: &Value) -> Result<u64, CallFailure> {
    Ok(u64::try_from(int(value)?).unwrap_or(0))
}

/// An index into a list that the call sent.
pub(in crate::broker::redis) fn index(value: &Value) -> Result<usize, CallFailure> {
    usize::try_from(int(value)?).map_err(|_| unexpected("an index", value))
}

/// Text.
pub(in crate::broker::redis) fn text(value: Value) -> Result<String, CallFailure> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes)
            .map_err(|_| CallFailure::not_understood("Redis answered bytes where text was expected")),
        Value::SimpleString(text) => Ok(text),
        Value::Okay => Ok("OK".into()),
        Value::Int(n) => Ok(n.to_string()),
        other => Err(unexpected("text", &other)),
    }
}

/// Bytes, or none.
pub(in crate::broker::redis) fn bytes(value: Value) -> Result<Option<Bytes>, CallFailure> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(Bytes::from(bytes))),
        Value::SimpleString(text) => Ok(Some(Bytes::from(text))),
        Value::Okay => Ok(Some(Bytes::from_static(b"OK"))),
        Value::Int(n) => Ok(Some(Bytes::from(n.to_string()))),
        other => Err(unexpected("bytes", &other)),
    }
}

/// Pairs of name and value, from a map or from an array that alternates them.
pub(in crate::broker::redis) fn pairs(value: Value) -> Result<Vec<(Value, Value)>, CallFailure> {
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
    CallFailure::not_understood(format!("Redis answered {found} where {wanted} was expected"))
}
