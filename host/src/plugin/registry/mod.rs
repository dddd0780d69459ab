//! The registry: which plugins there are, which versions of them serve, and which plugin handles which type.
//!
//! [`entry`] is the life of one plugin as a state machine. [`routing`] decides which plugin handles which type.
//! [`plugin_registry`] holds both, and the other files coordinate what changes them: the directory, approvals, rollbacks
//! and removals.

mod approval;
mod change_refusal;
mod directory;
mod directory_scan;
mod directory_watch;
mod entry;
mod load_file;
mod options;
mod ownership;
mod plugin_registry;
mod reconcile;
mod removal;
mod report;
mod routing;
mod unmatched;
mod versions;

#[cfg(test)]
mod approval_tests;
#[cfg(test)]
mod data_dir_tests;
#[cfg(test)]
mod entry_tests;
#[cfg(test)]
mod ownership_tests;
#[cfg(test)]
mod reconcile_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod registry_rig;
#[cfg(test)]
mod registry_tests;
#[cfg(test)]
mod rollback_tests;

pub use change_refusal::ChangeRefusal;
pub use options::{RegistryError, RegistryOptions, WatchMethod};
pub use plugin_registry::PluginRegistry;
pub use removal::RemovalReport;
