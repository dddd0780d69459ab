//! A summary of what a plugin's settings give it, for a person to read before they are used.

use serde_json::Value;

use super::plugin_settings::PluginSettings;
use crate::plugin::AttemptLimits;

impl PluginSettings {
    /// Pairs of a kind and what these settings give of it, without the values of secrets. Empty if they give nothing beyond
    /// what every plugin has.
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let hosts = self.grants.http.iter().flat_map(|grants| grants.iter().map(ToString::to_string)).collect();
        let secrets = self.secrets.iter().flatten().map(|(name, source)| format!("{name} from {source}")).collect();
        let config = self.config.iter().flat_map(|config| config.keys().cloned()).collect();
        let types = self.types.iter().flatten().map(ToString::to_string).collect();
        let rows: [(_, Vec<String>); 5] = [
            ("hosts", hosts),
            ("secrets", secrets),
            ("config", config),
            ("types", types),
            ("limits", self.changed_limits()),
        ];
        rows.into_iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(what, values)| (what, values.join(", ")))
            .collect()
    }

    /// The limits that differ from the defaults.
    fn changed_limits(&self) -> Vec<String> {
        let values = |limits: AttemptLimits| match serde_json::to_value(limits) {
            Ok(Value::Object(values)) => values,
            _ => serde_json::Map::new(),
        };
        let usual = values(AttemptLimits::default());
        let set = values(self.limits.over(AttemptLimits::default()));
        let differs = |(key, value): &(String, Value)| usual.get(key) != Some(value);
        set.into_iter().filter(differs).map(|(key, value)| format!("{} = {value}", settings_key(&key))).collect()
    }
}

/// The key of the settings for a member of a JSON document.
fn settings_key(key: &str) -> String {
    let mut written = String::new();
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            written.push('_');
        }
        written.push(c.to_ascii_lowercase());
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_everything_but_the_values_of_secrets() {
        let settings = PluginSettings::parse(
            r#"
            secrets = { a = { file = "/home/me/key" }, b = { env = "CLOUD_TOKEN" }, c = "hunter2" }
            grants.http = ["http://10.0.0.7:8080", { url = "https://api.example.com", methods = ["POST"] }]
            config = { url = "hunter3" }
            limits = { wall_ms = "60s", cpu_ms = 1000 }
            "#,
        )
        .unwrap();
        let rows: Vec<String> = settings.summary().iter().map(|(what, value)| format!("{what}: {value}")).collect();
        assert_eq!(
            rows,
            [
                "hosts: http://10.0.0.7:8080, https://api.example.com (POST)",
                "secrets: a from the file \"/home/me/key\", b from the variable CLOUD_TOKEN, c from these settings",
                "config: url",
                "limits: wall_ms = 60000",
            ]
        );
        assert_eq!(PluginSettings::parse("limits = { cpu_ms = 1000 }").unwrap().summary(), []);
    }
}
