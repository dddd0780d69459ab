//! What plugins keep between events: read by itself, written in the step that ends an attempt.
//!
//! A hash for each plugin holds its keys, each value behind its version and its end. Redis ends only whole keys of its own
//! by itself, so that a schedule of what is over stands beside it; what is over is nothing to every script, also before
//! it is forgotten.

use std::collections::BTreeMap;

use redis::Value;

use super::core::RedisCore;
use super::fault::CallFailure;
use super::reply;
use super::scripts::ScriptCall;
use crate::broker::{ExportedState, SnapshotItem, SnapshotPart};
use crate::event::{StateStep, StateWrite, StoredValue, Timestamp};

/// The most keys that are forgotten at a time.
const MAX_FORGOTTEN: usize = 100;
/// Keys that are looked at for one part of a snapshot.
const MAX_SCANNED: usize = 50;

/// The plugins whose state a call touches, each with its place, counted from 1 as scripts do.
#[derive(Debug, Default)]
pub(super) struct StateSpaces<'a> {
    plugins: Vec<&'a str>,
}

impl<'a> StateSpaces<'a> {
    /// The plugins of these steps.
    pub(super) fn of(steps: impl Iterator<Item = &'a StateStep>) -> Self {
        let mut spaces = Self::default();
        for step in steps {
            if !spaces.plugins.contains(&step.plugin.as_str()) {
                spaces.plugins.push(&step.plugin);
            }
        }
        spaces
    }

    /// Names the plugins and, if there are any, the keys in which their state stands.
    pub(super) fn push(&self, core: &RedisCore, call: &mut ScriptCall<'_>) {
        call.push_number(self.plugins.len());
        if !self.plugins.is_empty() {
            call.push_key(core.keys.state_spaces());
            call.push_key(core.keys.state_untils());
        }
        for plugin in &self.plugins {
            call.push_text(plugin);
            call.push_key(core.keys.state_of(plugin));
        }
    }

    /// Says what an attempt has seen and writes.
    pub(super) fn push_step(&self, call: &mut ScriptCall<'_>, step: Option<&StateStep>) {
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

impl RedisCore {
    /// See [`crate::broker::PluginStateReader::read_plugin_state`].
    pub(super) async fn plugin_state(&self, plugin: &str, key: &str) -> Result<StoredValue, CallFailure> {
        let mut call = self.script(&self.scripts.state).text(key).text(plugin);
        call.push_key(self.keys.state_of(plugin));
        let [version, value, keys, taken] = reply::tuple(self.link.call(&call).await?)?;
        let version = reply::count(&version)?;
        let value = if version == 0 { None } else { reply::bytes(value)? };
        let (keys, size_bytes) = (reply::count(&keys)?, reply::count(&taken)?);
        Ok(StoredValue { value, version, keys, size_bytes, room_bytes: self.state_room_bytes() })
    }

    /// See [`crate::broker::PluginStateRemover::remove_plugin_state`].
    pub(super) async fn remove_state(&self, plugin: &str) -> Result<u64, CallFailure> {
        let mut removed = 0;
        loop {
            let mut call = self.script(&self.scripts.state_remove).text(plugin).number(MAX_FORGOTTEN);
            call.push_key(self.keys.state_spaces());
            call.push_key(self.keys.state_untils());
            call.push_key(self.keys.state_of(plugin));
            match reply::count(&self.link.call(&call).await?)? {
                0 => return Ok(removed),
                some => removed += some,
            }
        }
    }

    /// Forgets keys whose time is over; false when none is left.
    pub(super) async fn forget_state(&self) -> Result<bool, CallFailure> {
        let mut call = self.script(&self.scripts.state_over).number(MAX_FORGOTTEN);
        call.push_key(self.keys.state_untils());
        let over = reply::array(self.link.call(&call).await?)?;
        let more = over.len() == MAX_FORGOTTEN;
        let mut by_plugin: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for member in over {
            let member = reply::text(member)?;
            if let Some((plugin, key)) = member.split_once('\n') {
                by_plugin.entry(plugin.to_owned()).or_default().push(key.to_owned());
            }
        }
        for (plugin, keys) in by_plugin {
            let mut call = self.script(&self.scripts.forget).text(&plugin);
            call.push_key(self.keys.state_untils());
            call.push_key(self.keys.state_of(&plugin));
            keys.iter().for_each(|key| call.push_text(key));
            self.link.call(&call).await?;
        }
        Ok(more)
    }

    /// The plugins that keep something.
    pub(super) async fn state_spaces(&self) -> Result<Vec<String>, CallFailure> {
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(self.keys.state_spaces().as_ref());
        reply::array(self.link.command(&ask).await?)?.into_iter().map(reply::text).collect()
    }

    /// A part of what a plugin keeps, from a cursor of Redis's on, and the next cursor; 0 at the end.
    pub(super) async fn state_part(&self, plugin: &str, cursor: u64) -> Result<(SnapshotPart, u64), CallFailure> {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(self.keys.state_of(plugin).as_ref()).arg(cursor).arg("COUNT").arg(MAX_SCANNED);
        let [next, pairs] = reply::tuple(self.link.command(&scan).await?)?;
        let mut part = SnapshotPart::default();
        for (key, raw) in reply::pairs(pairs)? {
            let key = reply::text(key)?;
            match read(raw)? {
                Some((value, until)) => {
                    part.items.push(SnapshotItem::State(ExportedState {
                        plugin: plugin.to_owned(),
                        key,
                        value,
                        until,
                    }));
                }
                None => part.unreadable.push(format!("the key {key:?} of the plugin {plugin}")),
            }
        }
        Ok((part, reply::count(&next)?))
    }
}

/// A value and its end, from what stands in the hash.
fn read(raw: Value) -> Result<Option<(bytes::Bytes, Option<Timestamp>)>, CallFailure> {
    let raw = reply::bytes(raw)?.unwrap_or_default();
    let mut words = raw.splitn(3, |byte| *byte == b' ');
    let (Some(version), Some(until), Some(value)) = (words.next(), words.next(), words.next()) else { return Ok(None) };
    let until = std::str::from_utf8(until).ok().and_then(|until| until.parse::<i64>().ok());
    let Some(until) = until.filter(|_| version.iter().all(u8::is_ascii_digit)) else { return Ok(None) };
    Ok(Some((raw.slice_ref(value), (until > 0).then(|| Timestamp::from_unix_ms(until)))))
}
