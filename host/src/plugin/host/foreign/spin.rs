//! Spin's variables: the table `config` of the plugin's settings, read-only.

use super::super::super::dialect::spin::fermyon::{spin::redis_types, spin2_0_0::variables};
use super::Guest;

impl redis_types::Host for Guest {}

impl variables::Host for Guest {
    fn get(&mut self, name: String) -> wasmtime::Result<Result<String, variables::Error>> {
        self.output.spend(name.len())?;
        let value = self.surroundings.config.get(&name).cloned();
        Ok(value.ok_or_else(|| variables::Error::Undefined(format!("no {name:?} in the plugin's table `config`"))))
    }
}
