//! Waits for a condition with a generous limit, and reports the last state if the condition does not come true.
//!
//! A test never sleeps for a time by itself. It waits for what should happen in that time.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long to wait. A test that passes never waits so long, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Calls a function until it returns `Ok`, and returns the value.
///
/// # Panics
/// After [`PATIENCE`], with the last `Err`.
#[track_caller]
pub fn eventually<T, E: Display>(what: &str, ask: impl FnMut() -> Result<T, E>) -> T {
    eventually_within(PATIENCE, what, ask)
}

/// [`eventually`] with another patience.
///
/// # Panics
/// After `patience`, with the last `Err`.
#[track_caller]
pub fn eventually_within<T, E: Display>(patience: Duration, what: &str, ask: impl FnMut() -> Result<T, E>) -> T {
    match try_eventually(patience, ask) {
        Ok(answer) => answer,
        Err(state) => panic!("{what}: not within {} s, but: {state}", patience.as_secs_f32()),
    }
}

/// Calls a function until it returns `Ok` or the patience is over.
///
/// # Errors
/// The last `Err`.
pub fn try_eventually<T, E>(patience: Duration, mut ask: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match ask() {
            Err(_) if begun.elapsed() <= patience => std::thread::sleep(pause),
            answer => return answer,
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Checks a condition again and again for a while, and fails as soon as it does not hold.
///
/// For things that must not happen.
///
/// # Panics
/// On the first `Err`.
#[track_caller]
pub fn holds_for<E: Display>(time: Duration, what: &str, mut ask: impl FnMut() -> Result<(), E>) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if let Err(state) = ask() {
            panic!("{what}: held for {} ms only: {state}", begun.elapsed().as_millis());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
