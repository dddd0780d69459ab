#![doc = include_str!("../ARCHITECTURE.md")]

pub mod broker;
pub mod event;
pub mod plugin;
pub mod shutdown;
