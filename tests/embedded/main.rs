//! The embedded broker on disks that fail: power that goes, syncs that lie in error, room that ends, and processes that
//! are killed in the middle of it.
//!
//! Every test loads a broker, keeps what it acknowledged, breaks something, opens what is left and audits it: nothing
//! acknowledged is missing, nothing is half there, and the totals are what counting gives.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this is tests"
)]

mod audit;
mod descriptors;
mod disk;
mod held;
mod killed;
mod load;
mod modes;
mod power;
mod rooms;
mod speed;
mod suite;
mod transfer;
