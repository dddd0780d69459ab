//! Turns the configuration into the options of the plugin registry.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;

use super::error::Error;
use crate::config::Config;
use crate::plugin::{
    AttemptLimits, CompileChild, CompileLimits, Compiler, InvalidSettings, LimitsPatch, PluginSettings,
    RegistryOptions, given_addresses,
};

/// Reads everything that the configuration says about plugins.
///
/// # Errors
/// [`Error::Refused`] with the setting that is wrong.
pub(super) fn plugin_options(config: &Config) -> Result<RegistryOptions, Error> {
    let refused = |place: String| move |error: InvalidSettings| Error::Refused(format!("{place}: {error}"));
    let defaults =
        AttemptLimits { payload_bytes: config.server.limits.max_payload_bytes as u64, ..AttemptLimits::default() };
    let limits = LimitsPatch::from_table(config.plugins.limits.clone())
        .map_err(refused("plugins.limits".into()))?
        .over(defaults);
    let mut settings = BTreeMap::new();
    for (name, table) in &config.plugins.by_name {
        let parsed = PluginSettings::from_table(table.clone()).map_err(|error| match &config.plugins.file {
            Some((file, text)) => error.in_section(&["plugins", name], file, text),
            None => error,
        });
        let parsed = parsed.map_err(refused(format!("plugins.{name}")))?;
        settings.insert(name.clone(), parsed);
    }
    Ok(RegistryOptions {
        dir: config.plugins.dir.clone(),
        may_make_dir: config.plugins.may_make_dir,
        concurrency: config.worker.host_concurrency,
        plugin_concurrency: config.worker.concurrency,
        limits,
        policies: config.worker.policies.clone(),
        settings,
        data_dir: config.plugins.data_dir.clone(),
        cache_max_bytes: config.plugins.cache_max_bytes,
        hold_new_capabilities: config.plugins.hold_new_capabilities,
        hold_taken_types: config.plugins.hold_taken_types,
        watch: config.plugins.watch,
        rescan_ms: config.plugins.rescan_ms,
        quiet_ms: config.plugins.quiet_ms,
        resolve: given_addresses(&config.plugins.resolve).map_err(refused("plugins.resolve".into()))?,
        compiler: Compiler::Child(compile_child(config.plugins.compile)?),
        ..RegistryOptions::default()
    })
}

/// The program that compiles plugins: this one, with the command `compile`.
fn compile_child(limits: CompileLimits) -> anyhow::Result<CompileChild> {
    // On Linux this path leads to the running program, even if a newer file has replaced it.
    let running = PathBuf::from("/proc/self/exe");
    let program = if running.exists() {
        running
    } else {
        std::env::current_exe().context("cannot find the file of this program, which compiles the plugins")?
    };
    Ok(CompileChild { program, arguments: vec!["compile".into()], limits })
}
