//! Components that handle events: loaded from a directory, sandboxed, and replaced while events flow.
//!
//! A [`Plugin`] is one version of one component, ready to run. The [`PluginRegistry`] decides which plugin handles which
//! type. It replaces versions without a lock on the path of an event: an attempt ends on the version that it began with.
//! This module does not know the broker. A handler's published events and state writes leave it as plain values in an
//! [`CompletedAttempt`], and a handler reads its state through a [`StateReader`].
//!
//! Guests run on threads of their own. A guest that burns CPU time delays neither HTTP nor the broker, and it delays another
//! guest by one time slice at most. [`PluginRegistry::run_jobs`] runs many jobs on those threads, [`Plugin::handle`] a single
//! attempt.

mod component;
mod data_dir;
mod dialect;
mod host_api;
mod inspection;
mod registry;
mod run;
mod sandbox;
mod settings;
#[cfg(test)]
mod testing;

pub use crate::event::{AttemptLimits, InvalidPattern, TypePattern};
pub use component::compile::Compiler;
pub use component::compile_child::{CompileChild, CompileLimits, compile_and_answer};
pub use component::load_error::LoadError;
pub use dialect::Dialect;
pub use host_api::state::{MemoryState, StateReader, StateUnavailable};
pub use host_api::{HttpGrant, HttpGrants};
pub use inspection::InspectionSandbox;
pub use registry::{ChangeRefusal, PluginRegistry, RegistryError, RegistryOptions, RemovalReport, WatchMethod};
pub use run::attempt::{AttemptInput, CompletedAttempt};
pub use run::executor::GuestJob;
pub use run::instance_pool::ReusePolicy;
pub use run::plugin::{AttemptPermit, Plugin};
pub use run::stopwatch::CpuMeter;
pub use settings::secrets::{FromEnvironment, FromFile, SecretError, SecretSource};
pub use settings::{
    GrantSettings, InvalidSettings, LimitsPatch, MAX_CONCURRENCY, PluginSettings, RetrySettings, given_addresses,
};
