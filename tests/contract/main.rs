//! The contract of a broker, proven on a real Redis.
//!
//! [`suite`] runs the cases that hold for every broker. The other modules are about Redis: faults of the network and of
//! the server, several consumers, and what an operator may do to the data. Each test has a server of its own with
//! `appendfsync always`. Tests assert no times; they wait for what must happen.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

mod access;
mod consumers;
mod data;
mod discard;
mod failover;
mod lists;
mod misplaced;
mod refusing;
mod rig;
mod served;
mod server;
mod suite;
mod transfer;
mod trimming;
mod versions;
mod wire;
