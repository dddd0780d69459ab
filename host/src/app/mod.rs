//! Assembles the program: the one place that knows every part and connects them.
//!
//! [`run`] starts and stops a server, [`export`], [`import`] and [`backup`] copy stores, and [`PluginInspector`] checks plugins
//! without a server.

mod error;
mod file_limit;
mod inspector;
mod open_broker;
mod plugin_admin;
mod plugin_facts;
mod plugin_options;
mod serve;
mod startup_facts;
mod transfer;
mod trial;

pub use error::Error;
pub use inspector::{InspectError, PluginInspector};
pub use plugin_facts::PluginFacts;
pub use serve::run;
pub use startup_facts::StartupFact;
pub use transfer::{backup, export, import};
pub use trial::PluginTrial;

pub use crate::event::EventFault;
pub use crate::plugin::{CompileLimits, PluginSettings, compile_and_answer};
pub use crate::transfer::{ExportNotice, TransferCounts};
