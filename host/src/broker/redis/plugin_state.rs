//! The state of plugins. It is read at any time, and written in the step that settles a delivery.
//!
//! One hash for each plugin holds its state keys. A value follows its version and its expiry. Redis cannot expire fields
//! of a hash, so a sorted set holds the expiries. Scripts treat an expired key as missing, even before it is removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::capacity::StoreCapacity;
use super::client::StoreClient;
use super::connection::{CallFailure, reply};
use super::scripts::ScriptCall;
use super::scripts::keys::StoreKeys;
use crate::event::{StateChanges, StateWrite, StoredValue};

/// The most state keys that one call removes.
const MAX_REMOVED: usize = 100;

/// The plugins whose state a call touches. Each has a place, counted from 1 as scripts do.
#[derive(Debug, Default)]
pub(super) struct StateSpaces<'a> {
    plugins: Vec<&'a str>,
}

impl<'a> StateSpaces<'a> {
    /// The plugins of these steps.
    pub(super) fn of(steps: impl Iterator<Item = &'a StateChanges>) -> Self {
        let mut spaces = Self::default();
        for step in steps {
            if !spaces.plugins.contains(&step.plugin.as_str()) {
                spaces.plugins.push(&step.plugin);
            }
        }
        spaces
    }

    /// Adds the plugins to a call and, if there are any, the keys of their state.
    pub(super) fn push(&self, keys: &StoreKeys, call: &mut ScriptCall<'_>) {
        call.push_number(self.plugins.len());
        if !self.plugins.is_empty() {
            call.push_key(keys.state_spaces());
            call.push_key(keys.state_expiries());
        }
        for plugin in &self.plugins {
            call.push_text(plugin);
            call.push_key(keys.state_of(plugin));
        }
    }

    /// Adds the versions that an attempt has seen and its writes.
    pub(super) fn push_step(&self, call: &mut ScriptCall<'_>, step: Option<&StateChanges>) {
        let Some(step) = step else {
            return (0..3).for_each(|_| call.push_number(0_u64));
        };
        let place = self.plugins.iter().position(|plugin| *plugin == step.plugin).map_or(0, |place| place + 1);
        call.push_number(place);
        call.push_number(step.expected.len());
        call.push_number(step.writes.len());
        for (key, version) in &step.expected {
            call.push_text(key);
            call.push_number(*version);
        }
        for (key, write) in &step.writes {
            let (verb, value, ttl_ms) = match write {
                StateWrite::Set { value, ttl_ms } => ("set", value.clone(), ttl_ms.unwrap_or(0)),
                StateWrite::Delete => ("del", bytes::Bytes::new(), 0),
                StateWrite::Add(delta) => ("add", delta.to_string().into(), 0),
            };
            call.push_text(verb);
            call.push_text(key);
            call.push_bytes(value);
            call.push_number(ttl_ms);
        }
    }
}

/// Reads and removes the state of plugins.
pub(super) struct PluginStates {
    pub(super) client: Arc<StoreClient>,
    pub(super) capacity: Arc<StoreCapacity>,
}

impl PluginStates {
    /// Reads one key.
    pub(super) async fn read_value(&self, plugin: &str, key: &str) -> Result<StoredValue, CallFailure> {
        let client = &self.client;
        let mut call = client.script_call(&client.scripts.state).text(key).text(plugin);
        call.push_key(client.keys.state_of(plugin));
        let [version, value, keys, size_bytes] = reply::tuple(client.call(&call).await?)?;
        let version = reply::count(&version)?;
        let value = if version == 0 { None } else { reply::bytes(value)? };
        let (keys, size_bytes) = (reply::count(&keys)?, reply::count(&size_bytes)?);
        Ok(StoredValue { value, version, keys, size_bytes, room_bytes: self.capacity.max_state_bytes() })
    }

    /// Removes the whole state of a plugin, and returns the number of keys.
    pub(super) async fn remove_all(&self, plugin: &str, audit: Option<&str>) -> Result<u64, CallFailure> {
        let client = &self.client;
        let mut removed = 0;
        loop {
            let mut call = client.script_call(&client.scripts.state_remove).text(plugin).number(MAX_REMOVED);
            call.push_key(client.keys.state_spaces());
            call.push_key(client.keys.state_expiries());
            call.push_key(client.keys.state_of(plugin));
            // The first step notes the removal, since a crash may come before the last one.
            call.push_audit(&client.keys, audit.filter(|_| removed == 0));
            match reply::count(&client.call(&call).await?)? {
                0 => return Ok(removed),
                n => removed += n,
            }
        }
    }

    /// Removes expired keys; true if there may be more.
    pub(super) async fn remove_expired(&self) -> Result<bool, CallFailure> {
        let client = &self.client;
        let mut call = client.script_call(&client.scripts.state_expired).number(MAX_REMOVED);
        call.push_key(client.keys.state_expiries());
        let expired = reply::array(client.call(&call).await?)?;
        let more = expired.len() == MAX_REMOVED;
        let mut by_plugin: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for member in expired {
            let member = reply::text(member)?;
            if let Some((plugin, key)) = member.split_once('\n') {
                by_plugin.entry(plugin.to_owned()).or_default().push(key.to_owned());
            }
        }
        for (plugin, keys) in by_plugin {
            let mut call = client.script_call(&client.scripts.state_expire).text(&plugin);
            call.push_key(client.keys.state_expiries());
            call.push_key(client.keys.state_of(&plugin));
            keys.iter().for_each(|key| call.push_text(key));
            client.call(&call).await?;
        }
        Ok(more)
    }
}
