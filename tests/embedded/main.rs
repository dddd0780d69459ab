//! The embedded broker on disks that fail: power cuts, failed syncs, full disks, and processes that are killed.
//!
//! Each test puts a load on a broker, records what it acknowledged, breaks something, opens the store again and audits it.
//! Nothing acknowledged may be missing, nothing may be there in part, and the totals must match a count.

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
