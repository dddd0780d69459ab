//! Runs attempts: a plugin's instances, the threads that guests run on, and the outcomes of their calls.

pub(super) mod attempt;
#[cfg(test)]
pub(super) mod attempt_tests;
pub(super) mod executor;
#[cfg(test)]
mod executor_tests;
pub(super) mod guest_error;
pub(super) mod guest_turns;
#[cfg(test)]
pub(super) mod handle_tests;
pub(super) mod instance;
pub(super) mod instance_pool;
pub(super) mod outcome;
pub(super) mod plugin;
pub(super) mod stopwatch;
