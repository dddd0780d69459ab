//! The plugins that a start still has to load, and the types that they are expected to handle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::directory;
use super::routing::{PluginVersions, RouteTable, RouteTarget};
use crate::event::{EventType, TypePattern};
use crate::plugin::data_dir::pattern_owners::PatternOwners;
use crate::plugin::settings::PluginSettings;
use crate::regular_file;

/// The plugins in the directory before they are loaded.
#[derive(Debug, Default)]
pub(super) struct ExpectedPlugins {
    pub(super) names: BTreeSet<String>,
    routes: RouteTable<ExpectedPlugin>,
}

#[derive(Debug)]
struct ExpectedPlugin {
    name: String,
    patterns: Vec<TypePattern>,
}

impl RouteTarget for ExpectedPlugin {
    fn patterns(&self) -> &[TypePattern] {
        &self.patterns
    }
}

impl ExpectedPlugins {
    /// Reads which plugins a directory holds and which types their settings name. Where they name none, the file's name is
    /// the type that is expected. Plugins that cannot be read are left out; loading them says why. Blocks.
    pub(super) fn read(dir: &Path, settings: &BTreeMap<String, PluginSettings>) -> Self {
        let listing = directory::list(dir).unwrap_or_default();
        let names = listing.keys().cloned().collect();
        let types = |name: &str, beside: Option<&Path>| {
            let beside = beside.and_then(|path| PluginSettings::parse(&regular_file::read_to_string(path).ok()?).ok());
            beside.and_then(|it| it.types).or_else(|| settings.get(name)?.types.clone())
        };
        let plugins = listing.into_iter().map(|(name, listed)| {
            // A wrong guess costs a wait, since a delivery in the wrong lane is moved to the right one.
            let named_after = || name.parse().ok().map(TypePattern::Exact).into_iter().collect();
            let patterns = types(&name, listed.settings.as_deref()).unwrap_or_else(named_after);
            let plugin = Arc::new(ExpectedPlugin { name: name.clone(), patterns });
            (name, PluginVersions { newest: Some(plugin), last_good: None })
        });
        Self { names, routes: RouteTable::build(&plugins.collect(), &PatternOwners::default()).0 }
    }

    /// The name of the plugin that is expected to handle a type.
    pub(super) fn route(&self, event_type: &EventType) -> Option<&str> {
        self.routes.route(event_type).map(|plugin| plugin.name.as_str())
    }
}
