//! Checks the keys of settings. An unknown key is refused with the nearest known one.

use toml::{Table, Value};

use super::invalid::InvalidSettings;
use super::keys::{CLASS_KEYS, GRANT_KEYS, KEYS, LIMIT_KEYS, POLICY_KEYS, REUSE_KEYS};

/// Refuses unknown keys in all tables.
pub(super) fn check(table: &Table) -> Result<(), InvalidSettings> {
    check_keys(&[], table, &KEYS)?;
    check_table(table, "reuse", &REUSE_KEYS)?;
    check_table(table, "limits", &LIMIT_KEYS)?;
    check_table(table, "grants", &GRANT_KEYS)?;
    if table.get("secrets").is_some_and(|secrets| !secrets.is_table()) {
        let words = "secrets are a table: secrets = { name = { env = \"NAME\" } }";
        return Err(InvalidSettings::new(words).at(&["secrets"]));
    }
    check_table(table, "retry", &[POLICY_KEYS, CLASS_KEYS].concat())?;
    if let Some(Value::Table(retry)) = table.get("retry") {
        for class in CLASS_KEYS {
            if let Some(Value::Table(policy)) = retry.get(class) {
                check_keys(&["retry", class], policy, &POLICY_KEYS)?;
            }
        }
    }
    Ok(())
}

fn check_table(table: &Table, key: &str, known: &[&str]) -> Result<(), InvalidSettings> {
    match table.get(key) {
        Some(Value::Table(inner)) => check_keys(&[key], inner, known),
        _ => Ok(()),
    }
}

/// Refuses unknown keys in one table.
pub(super) fn check_keys(place: &[&str], table: &Table, known: &[&str]) -> Result<(), InvalidSettings> {
    let Some(unknown) = table.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let path = [place, &[unknown.as_str()]].concat();
    let nearest = known.iter().max_by(|a, b| strsim::jaro(a, unknown).total_cmp(&strsim::jaro(b, unknown)));
    let key = path.join(".");
    let words = match nearest {
        _ if place.is_empty() && table[unknown].is_table() => format!(
            "no key {key:?}; is it part of the plugin's name? One with dots is quoted: [plugins.\"order.paid\"]"
        ),
        Some(nearest) if strsim::jaro(nearest, unknown) > 0.7 => format!("no key {key:?}; did you mean {nearest:?}?"),
        _ => format!("no key {key:?}; there are {}", known.join(", ")),
    };
    Err(InvalidSettings::new(words).at(&path))
}
