//! `config`: the table `config` of the plugin's settings, read-only.

use super::Guest;
use super::wit::config::Host;

impl Host for Guest {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.output.spend(key.len())?;
        Ok(self.surroundings.config.get(&key).cloned())
    }
}
