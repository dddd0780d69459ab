//! What the end-to-end tests stand on: the host as a process, a store of their own, a faulty wire to a Redis, a typed
//! client, the ledger that knows what must have become of every event, and what must hold of any input.
//!
//! A harness fails by panicking, with words; it never decides by itself that a test passed. Everything that it starts
//! listens on 127.0.0.1 and ends with the value that stands for it.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what goes wrong in a harness is for the person who reads the failed test"
)]

pub mod client;
pub mod eventually;
pub mod fill;
pub mod fuzz;
pub mod guests;
pub mod host;
pub mod layout;
pub mod ledger;
pub mod load;
pub mod machine;
pub mod memory;
pub mod native;
pub mod proxy;
pub mod redis;
pub mod stage;
pub mod store;
