//! A handler of Spin's Redis trigger as its SDK makes it: a core module for `wasm32-wasip1` that knows nothing of
//! eventstream. Its payload is a JSON text: a word, a blank, and the word's text.
//!
//! `print` writes the text to standard output, `variable` the value of the variable of that name; `error` answers with an
//! error, which the SDK writes to standard error.

use bytes::Bytes;
use spin_sdk::{redis_component, variables};

#[redis_component]
fn on_message(message: Bytes) -> anyhow::Result<()> {
    let payload = std::str::from_utf8(&message)?;
    let payload = payload.trim_matches('"');
    let (word, text) = payload.split_once(' ').unwrap_or((payload, ""));
    match word {
        "ok" => Ok(()),
        "print" => {
            println!("{text}");
            Ok(())
        }
        "variable" => {
            println!("{text}={}", variables::get(text)?);
            Ok(())
        }
        "error" => anyhow::bail!("{text}"),
        _ => panic!("{text}"),
    }
}
