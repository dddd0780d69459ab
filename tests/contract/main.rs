//! The contract of a broker, proven on a real Redis.
//!
//! [`suite`] runs the cases that hold for any broker. The other modules are about Redis: faults on the wire, faults of
//! the server, several consumers at once, and what an operator may do to the data. Each test has a server of its own,
//! with everything on stable storage, and asserts no times: what has to happen is awaited.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

mod consumers;
mod data;
mod lists;
mod misplaced;
mod refusing;
mod rig;
mod served;
mod server;
mod suite;
mod transfer;
mod wire;
