//! `config`: the table `config` of the plugin's settings, read-only.

use super::GuestState;
use super::wit::config::Host;

impl Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.output.spend(key.len())?;
        Ok(self.surroundings.config.get(&key).cloned())
    }
}
