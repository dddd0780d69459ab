//! Turns errors of the engine into the failure classes of the contract.
//!
//! Messages are for the person who looks at a failed event. So the message of a panic comes from the guest's standard error;
//! the engine only knows that an `unreachable` was reached.

use std::fmt::{self, Write};

use wasmtime::component::ResourceTableError;
use wasmtime::{Error, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::guest_error;
use crate::event::{AttemptFailure, FailureClass};
use crate::plugin::sandbox::engine::MAX_FRAMES;
use crate::plugin::sandbox::limits::LimitBreach;

const MAX_MESSAGE_BYTES: usize = 4 * 1_024;
const MAX_BACKTRACE_BYTES: usize = 8 * 1_024;

/// The engine's message when one call carries too much data. Its error type is private; a test notices a change.
const HOST_CALL_WORDS: &str = "fuel allocated for hostcalls has been exhausted";
/// A word of the engine's message when an instance holds too many handles. Its error type is private as well.
const HANDLE_WORDS: &str = "handle";

/// Cuts a message that a guest wrote or caused to the length that a record may hold.
pub(in crate::plugin) fn cut_message(text: impl Into<String>) -> String {
    cut(text.into(), MAX_MESSAGE_BYTES)
}

/// Formats and cuts a message. A guest can supply megabytes, so formatting stops where the message ends.
pub(in crate::plugin) fn format_message(words: fmt::Arguments<'_>) -> String {
    let mut start = MessageStart(String::new());
    // Fails when the message is long enough.
    let _ = start.write_fmt(words);
    cut_message(start.0)
}

/// The start of a message, a little longer than a message may be, so that [`cut_message`] sees that there was more.
struct MessageStart(String);

impl fmt::Write for MessageStart {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = (MAX_MESSAGE_BYTES + 4).saturating_sub(self.0.len());
        self.0.push_str(&more[..more.floor_char_boundary(room)]);
        if more.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

/// The failure of an attempt that ended with an error of the engine or of a host function.
pub(in crate::plugin) fn classify(error: &Error, stderr: Option<&str>) -> AttemptFailure {
    let backtrace = error.downcast_ref::<WasmBacktrace>().filter(|backtrace| !backtrace.frames().is_empty());
    let (class, text) = class_and_message(error, backtrace.is_some(), stderr);
    AttemptFailure {
        class,
        message: cut_message(text),
        backtrace: backtrace.map(|backtrace| cut(frames(backtrace), MAX_BACKTRACE_BYTES)),
        after_ms: None,
    }
}

fn class_and_message(error: &Error, in_guest: bool, stderr: Option<&str>) -> (FailureClass, String) {
    if let Some(breach) = error.downcast_ref::<LimitBreach>() {
        return (breach.class(), breach.to_string());
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        let words = format!("the handler exited with status {} instead of returning", exit.0);
        return (FailureClass::Trap, with_guest_reason(words, stderr));
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return (FailureClass::Limit, "holds more open handles than an attempt may".into());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => (FailureClass::Limit, "used more stack than an attempt may".into()),
        Some(Trap::MemoryOutOfBounds) if is_below_zero(error) || is_deep(error) => {
            (FailureClass::Limit, "used more stack than the component was built with".into())
        }
        Some(Trap::AllocationTooLarge) => (FailureClass::Limit, "wanted more memory than a memory can have".into()),
        Some(Trap::UnreachableCodeReached) => {
            (FailureClass::Trap, with_guest_reason(Trap::UnreachableCodeReached.to_string(), stderr))
        }
        Some(trap) => (FailureClass::Trap, with_fault(error, trap)),
        None => {
            let words = error.root_cause().to_string();
            match () {
                // Without a frame of the guest, the host was reading the result of the handler.
                () if words.contains(HOST_CALL_WORDS) && in_guest => {
                    (FailureClass::Limit, "passed more data to the host in one call than an attempt may in all".into())
                }
                () if words.contains(HOST_CALL_WORDS) => {
                    (FailureClass::Output, "the result is larger than the host accepts in one call".into())
                }
                () if words.contains(HANDLE_WORDS) && words.contains("limit") => (FailureClass::Limit, words),
                () => (FailureClass::Trap, words),
            }
        }
    }
}

/// Whether the fault is below address zero. Most toolchains place the stack at the bottom of the memory, and it grows
/// downwards. So a stack overflow wraps around to the last megabytes of the address space.
fn is_below_zero(error: &Error) -> bool {
    const LAST_MEGABYTES: u64 = 0xff00_0000;
    fault(error).and_then(|(_, address)| address).is_some_and(|address| (LAST_MEGABYTES..1 << 32).contains(&address))
}

/// Whether the backtrace is as deep as it can be, which suggests a recursion. For instructions that touch many bytes the
/// engine reports no address.
fn is_deep(error: &Error) -> bool {
    error.downcast_ref::<WasmBacktrace>().is_some_and(|backtrace| backtrace.frames().len() >= MAX_FRAMES)
}

fn with_fault(error: &Error, trap: &Trap) -> String {
    match fault(error) {
        Some((words, _)) => format!("{trap}: {words}"),
        None => trap.to_string(),
    }
}

/// The engine's details of an access out of bounds, and the address in them.
fn fault(error: &Error) -> Option<(String, Option<u64>)> {
    const BEFORE: &str = "memory fault at wasm address 0x";
    error.chain().map(ToString::to_string).find(|words| words.starts_with(BEFORE)).map(|words| {
        let digits: String = words[BEFORE.len()..].chars().take_while(char::is_ascii_hexdigit).collect();
        let address = u64::from_str_radix(&digits, 16).ok();
        (words, address)
    })
}

/// The reason that the guest gave on standard error. Without one, the engine's words and the end of standard error.
fn with_guest_reason(words: String, stderr: Option<&str>) -> String {
    let Some(stderr) = stderr else { return words };
    guest_error::find_reason(stderr).unwrap_or_else(|| match guest_error::tail(stderr) {
        tail if tail.is_empty() => words,
        tail => format!("{words}; it said last: {tail}"),
    })
}

/// One frame a line, innermost first, with demangled names and without offsets.
fn frames(backtrace: &WasmBacktrace) -> String {
    let text = backtrace.to_string();
    let lines: Vec<&str> = text.lines().skip(1).map(str::trim).filter(|line| !line.starts_with("note: ")).collect();
    lines.join("\n")
}

fn cut(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes - 3));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_class() {
        for (error, class, words) in [
            (Error::from(LimitBreach::WallTime { limit_ms: 5 }), FailureClass::Timeout, "5 ms"),
            (Error::from(LimitBreach::CpuTime { limit_ms: 5 }), FailureClass::Timeout, "CPU"),
            (Error::from(LimitBreach::Memory { wanted_bytes: 2, limit_bytes: 1 }), FailureClass::Limit, "memory"),
            (Error::from(LimitBreach::HostCall { limit_bytes: 1 }), FailureClass::Limit, "host"),
            (Error::from(I32Exit(0)), FailureClass::Trap, "status 0"),
            (Error::from(ResourceTableError::Full), FailureClass::Limit, "handles"),
            (Error::from(Trap::StackOverflow), FailureClass::Limit, "stack"),
            (Error::from(Trap::IntegerDivisionByZero), FailureClass::Trap, "divide by zero"),
            (Error::from(Trap::MemoryOutOfBounds), FailureClass::Trap, "out of bounds"),
            (Error::msg("something else"), FailureClass::Trap, "something else"),
        ] {
            let failure = classify(&error.context("while a host function ran"), None);
            assert_eq!(failure.class, class, "{failure:?}");
            assert!(failure.message.contains(words), "{failure:?} says {words:?}");
        }
    }

    #[test]
    fn an_access_below_zero_is_a_stack_overflow() {
        let fault = |address: &str| {
            let words = format!("memory fault at wasm address 0x{address} in linear memory of size 0x20000");
            classify(&Error::from(Trap::MemoryOutOfBounds).context(words), None)
        };
        assert_eq!(fault("fffffff0").class, FailureClass::Limit);
        assert_eq!(fault("20004").class, FailureClass::Trap);
        assert!(fault("20004").message.contains("0x20004"), "{:?}", fault("20004"));
    }

    #[test]
    fn the_message_of_a_panic_comes_from_the_guest() {
        let stderr = "first\n\nthread '<unnamed>' (1) panicked at src/lib.rs:7:5:\nno such order\n\
                      note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        let failure = classify(&Error::from(Trap::UnreachableCodeReached), Some(stderr));
        assert_eq!(failure.message, "panicked at src/lib.rs:7:5: no such order");
        let silent = classify(&Error::from(Trap::UnreachableCodeReached), Some("first"));
        assert!(
            silent.message.contains("unreachable") && silent.message.ends_with("it said last: first"),
            "{silent:?}"
        );
        let exited = classify(&Error::from(I32Exit(3)), Some("out of paper"));
        assert_eq!(exited.message, "the handler exited with status 3 instead of returning; it said last: out of paper");
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let text = cut_message("é".repeat(4_000));
        assert!(text.len() <= MAX_MESSAGE_BYTES && text.ends_with('…'), "{} bytes", text.len());
    }

    #[test]
    fn only_the_start_of_a_long_message_is_formatted() {
        /// Writes until the writer fails.
        struct EndlessMessage;
        impl fmt::Debug for EndlessMessage {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("é")?;
                }
            }
        }
        let text = format_message(format_args!("so: {EndlessMessage:?}"));
        assert!(text.starts_with("so: éé") && text.len() <= MAX_MESSAGE_BYTES && text.ends_with('…'), "{text}");
        assert_eq!(format_message(format_args!("{}", 7)), "7");
    }
}
