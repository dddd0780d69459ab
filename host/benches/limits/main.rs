//! What the figures of `cargo xtask bench` are held against: the least that could do the same work, one command each.
//!
//! | command | is |
//! |---|---|
//! | `ceiling` | axum that answers 202 to `POST /events` and keeps nothing |
//! | `redis URL EVENTS BYTES commit\|history` | a native consumer that does nothing, on Redis Streams |
//! | `embedded DIRECTORY EVENTS BYTES` | the same on the product's own embedded broker, without worker and plugin |
//! | `sqlite DIRECTORY EVENTS BYTES` | the same on a bare SQLite |
//!
//! Each is a process of its own, as the product is. A drain prints events in a second on one line.
#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

mod ceiling;
mod embedded_drain;
mod redis_drain;
mod sqlite_drain;

use std::path::Path;

use anyhow::{Context, bail};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<usize>().with_context(|| format!("{text:?} is no number"));
    let rate = match words[..] {
        ["ceiling"] => return ceiling::serve(),
        ["redis", url, events, bytes, "commit"] => redis_drain::run(url, number(events)?, number(bytes)?, false)?,
        ["redis", url, events, bytes, "history"] => redis_drain::run(url, number(events)?, number(bytes)?, true)?,
        ["embedded", directory, events, bytes] => embedded_drain::run(directory, number(events)?, number(bytes)?)?,
        ["sqlite", directory, events, bytes] => {
            sqlite_drain::run(Path::new(directory), number(events)?, number(bytes)?)?
        }
        _ => bail!("not a command: {}", words.join(" ")),
    };
    println!("{rate:.1}");
    Ok(())
}
