//! The harness of the end-to-end tests.
//!
//! It runs the host as a process ([`host`]) on a store of the test's own ([`store`]), with a faulty network ([`proxy`]), disk
//! and clock ([`machine`]). It talks to the host as a program would ([`client`]) and audits what became of every event
//! ([`ledger`]). A harness reports a failure by panicking with an explanation. All that it starts listens on 127.0.0.1 and
//! ends when its value is dropped.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what goes wrong in a harness is for the person who reads the failed test"
)]

pub mod client;
pub mod eventually;
pub mod fill;
pub mod final_state;
pub mod fuzz;
pub mod guests;
pub mod host;
pub mod layout;
pub mod ledger;
pub mod load;
pub mod machine;
pub mod memory;
pub mod native;
mod output_lines;
pub mod proxy;
pub mod redis;
pub mod small_disk;
pub mod stage;
pub mod store;
