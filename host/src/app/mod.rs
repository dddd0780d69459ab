//! Assembles the program: the one place that knows every part and connects them.
//!
//! [`run`] starts and stops a server, [`export`], [`import`] and [`backup`] copy stores, and [`PluginInspector`] checks plugins
//! without a server.

mod error;
mod inspector;
mod keys;
mod plugin_options;
mod registry_control;
mod serve;
mod startup_facts;
mod store;
mod trial;

pub use error::Error;
pub use inspector::{InspectError, PluginInspector};
pub use keys::{FirstKey, make_key, new_key_token};
pub use serve::run;
pub use store::{backup, export, import};
pub use trial::{InspectedFile, PluginTrial};

pub use crate::event::EventFault;
pub use crate::plugin::{CompileLimits, PluginSettings, compile_and_answer};
pub use crate::transfer::{ExportNotice, TransferCounts};
