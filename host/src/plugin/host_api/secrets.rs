//! `secrets`: the table `secrets` of the plugin's settings, read-only.

use super::GuestState;
use super::wit::secrets::Host;

impl Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.output.spend(key.len())?;
        Ok(self.surroundings.secrets.get(&key).map(str::to_owned))
    }
}
