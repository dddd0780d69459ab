#![doc = include_str!("../ARCHITECTURE.md")]

pub mod api_key;
pub mod clock;
pub mod event;
pub mod plugin_report;
pub mod printable;
pub mod secret;

pub mod broker;
pub mod plugin;

pub mod transfer;
pub mod worker;

pub mod api;

pub mod config;

pub mod app;

pub mod regular_file;
pub mod shutdown;
pub mod telemetry;
