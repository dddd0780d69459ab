//! `secrets`: the table `secrets` of the plugin's settings, read-only.

use super::bindings::eventstream::plugin::secrets::Host;
use super::guest::GuestState;

impl Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.output.charge(key.len())?;
        Ok(self.context.secrets.get(&key).map(str::to_owned))
    }
}
