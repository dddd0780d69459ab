//! Spin's variables: the table `config` of the plugin's settings, read-only.

use super::GuestState;
use crate::plugin::dialect::spin::fermyon::{spin::redis_types, spin2_0_0::variables};
use crate::plugin::host_api::publisher::short;

impl redis_types::Host for GuestState {}

impl variables::Host for GuestState {
    fn get(&mut self, name: String) -> wasmtime::Result<Result<String, variables::Error>> {
        self.output.spend(name.len())?;
        let value = self.surroundings.config.get(&name).cloned();
        let words = || format!("no {:?} in the plugin's table `config`", short(&name));
        Ok(value.ok_or_else(|| variables::Error::Undefined(words())))
    }
}
