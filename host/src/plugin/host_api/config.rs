//! `config`: the table `config` of the plugin's settings, read-only.

use super::bindings::eventstream::plugin::config::Host;
use super::guest::GuestState;

impl Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.output.charge(key.len())?;
        Ok(self.context.config.get(&key).cloned())
    }
}
