#![doc = include_str!("../ARCHITECTURE.md")]

pub mod api;
pub mod app;
pub mod broker;
pub mod config;
pub mod event;
pub mod plugin;
pub mod shutdown;
pub mod telemetry;
