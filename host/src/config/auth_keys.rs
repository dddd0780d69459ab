//! Reads `[[auth.keys]]`: the keys that the configuration names.
//!
//! A message names the entry by its place and says what is valid. It repeats no value, which may be a key in the wrong place.

use std::path::Path;

use toml::{Table, Value};

use super::value::{SettingValue, ValueMismatch};
use crate::api_key::{ConfiguredKey, KeyRights, KeyToken, MAX_KEY_TYPES, ScopeSet, TokenHash, is_key_name};
use crate::regular_file;

/// The most keys of a configuration.
const MAX_KEYS: usize = 1_000;

/// Reads the list.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn parse_keys(value: SettingValue<'_>) -> Result<Vec<ConfiguredKey>, ValueMismatch> {
    let SettingValue::Toml(Value::Array(entries)) = value else {
        return Err(value.mismatch("a list: write the keys in a file, each below [[auth.keys]]"));
    };
    if entries.len() > MAX_KEYS {
        return Err(format!("{} keys are more than {MAX_KEYS}", entries.len()));
    }
    let mut keys: Vec<ConfiguredKey> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let number = index + 1;
        let key = entry.as_table().ok_or_else(|| "is not a table".to_owned()).and_then(parse_key);
        let key = key.map_err(|fault| format!("the key in place {number}: {fault}"))?;
        if keys.iter().any(|other| other.name == key.name || other.sha256 == key.sha256) {
            return Err(format!("the key in place {number}: an earlier one has the same name or the same secret"));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn parse_key(entry: &Table) -> Result<ConfiguredKey, String> {
    const KNOWN: [&str; 7] = ["name", "sha256", "secret_file", "scopes", "types", "rate", "expires_at"];
    if entry.keys().any(|key| !KNOWN.contains(&key.as_str())) {
        return Err(format!("it has a setting that keys do not have; they have {}", KNOWN.join(", ")));
    }
    let text = |name: &str| entry.get(name).map(|value| value.as_str().ok_or_else(|| format!("{name} is no text")));
    let list = |name: &str| -> Result<Vec<&str>, String> {
        let Some(value) = entry.get(name) else { return Ok(Vec::new()) };
        let items = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        items.ok_or_else(|| format!("{name} is no list of texts"))
    };
    let name = text("name").transpose()?.filter(|name| is_key_name(name));
    let name = name.ok_or("name must have 1 to 64 letters, digits and ._@-")?.to_owned();
    let sha256 = match (text("sha256").transpose()?, text("secret_file").transpose()?) {
        (Some(hash), None) => hash.parse().map_err(|reason| format!("sha256: {reason}"))?,
        (None, Some(path)) => hash_file(Path::new(path))?,
        _ => return Err("set either sha256 or secret_file".into()),
    };
    let scopes = list("scopes")?.into_iter().map(str::parse).collect::<Result<ScopeSet, _>>();
    let scopes = scopes.map_err(|error| format!("scopes: {error}"))?;
    if scopes.is_empty() {
        return Err("scopes: say what the key allows: publish, read, operate, deploy, keys".into());
    }
    let types = list("types")?;
    if types.len() > MAX_KEY_TYPES {
        return Err(format!("types: a key has at most {MAX_KEY_TYPES}"));
    }
    let types = types.into_iter().map(str::parse).collect::<Result<_, _>>();
    let types = types.map_err(|_| "types: they are such as order.paid, order.* or *")?;
    let rate = text("rate").transpose()?.map(str::parse).transpose().map_err(|error| format!("rate: {error}"))?;
    let expires_at = match entry.get("expires_at") {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Datetime(time)) => Some(time.to_string()),
        Some(_) => return Err("expires_at is no time".into()),
    };
    let expires_at = expires_at.map(|text| text.parse()).transpose();
    let expires_at = expires_at.map_err(|error| format!("expires_at: {error}"))?;
    Ok(ConfiguredKey { name, sha256, rights: KeyRights { scopes, types, rate, expires_at } })
}

fn hash_file(path: &Path) -> Result<TokenHash, String> {
    let text = regular_file::read_to_string(path).map_err(|error| format!("secret_file cannot be read: {error}"))?;
    let token: KeyToken = text.trim().parse().map_err(|error| format!("secret_file: {error}"))?;
    Ok(token.hash())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::KeyId;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parse(text: &str) -> Result<Vec<ConfiguredKey>, String> {
        let table: Table = toml::from_str(text).unwrap();
        parse_keys(SettingValue::Toml(&table["keys"]))
    }

    #[test]
    fn a_key_is_named_by_its_hash_or_by_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let token = KeyToken::from_random(&KeyId::from_random([1; 16]), [2; 32]);
        let file = folder.path().join("key");
        std::fs::write(&file, format!("{}\n", token.expose())).unwrap();
        let keys = parse(&format!(
            "[[keys]]\nname = \"ci\"\nsha256 = \"{HASH}\"\nscopes = [\"publish\"]\ntypes = [\"order.*\"]\nrate = \"9/m\"\n\
             expires_at = 2027-01-01T00:00:00Z\n[[keys]]\nname = \"ada\"\nsecret_file = {file:?}\nscopes = [\"read\", \"keys\"]"
        ));
        let keys = keys.unwrap();
        assert_eq!((keys[0].name.as_str(), keys[0].sha256.to_string().as_str()), ("ci", HASH));
        let rights = serde_json::to_string(&keys[0].rights).unwrap();
        assert_eq!(
            rights,
            r#"{"scopes":["publish"],"types":["order.*"],"rate":"9/m","expiresAt":"2027-01-01T00:00:00.000Z"}"#
        );
        assert_eq!((keys[1].sha256, keys[1].rights.scopes.to_string().as_str()), (token.hash(), "read,keys"));
    }

    #[test]
    fn what_is_wrong_is_said_without_a_value() {
        let good = format!("name = \"a\"\nsha256 = \"{HASH}\"\nscopes = [\"read\"]");
        for (entries, word) in [
            (vec!["name = \"can ary\""], "name must have"),
            (vec!["name = \"es1_canary\""], "name must have"),
            (vec!["name = \"a\"\nscopes = [\"read\"]"], "either sha256 or secret_file"),
            (vec!["name = \"a\"\nsha256 = \"canary\"\nscopes = [\"read\"]"], "64 hexadecimal digits"),
            (vec!["name = \"a\"\nsecret_file = \"/canary\"\nscopes = [\"read\"]"], "cannot be read"),
            (vec!["name = \"a\"\nsecret = \"canary\""], "it has a setting"),
            (vec![&good.replace("read", "canary")], "the scopes are"),
            (vec![&good.replace("[\"read\"]", "\"canary\"")], "scopes is no list"),
            (vec![&good.replace("[\"read\"]", "[]")], "say what the key allows"),
            (vec![&format!("{good}\nrate = \"canary\"")], "a rate is"),
            (vec![&format!("{good}\ntypes = [\"ca nary\"]")], "types: they are"),
            (vec![&format!("{good}\nexpires_at = \"canary\"")], "RFC 3339"),
            (vec![&good, &good], "place 2: an earlier one"),
        ] {
            let text: String = entries.iter().map(|entry| format!("[[keys]]\n{entry}\n")).collect();
            let fault = parse(&text).unwrap_err();
            assert!(fault.contains(word) && !fault.contains("nary"), "{text}: {fault}");
        }
        assert!(parse("keys = [\"canary\"]").unwrap_err().ends_with("is not a table"));
        assert!(parse_keys(SettingValue::Text("canary")).unwrap_err().contains("[[auth.keys]]"));
    }
}
