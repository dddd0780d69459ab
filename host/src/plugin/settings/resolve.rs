//! `[plugins.resolve]`: addresses of names, in place of those of the system's resolver.

use std::collections::BTreeMap;
use std::net::IpAddr;

use toml::{Table, Value};

use super::invalid::InvalidSettings;

/// Reads the table: for each name an address or a list of them. Grants are checked against them as against the answers of
/// a resolver.
///
/// # Errors
/// A value is not an address.
pub fn given_addresses(table: &Table) -> Result<BTreeMap<String, Vec<IpAddr>>, InvalidSettings> {
    table.iter().map(|(name, value)| Ok((name.to_ascii_lowercase(), addresses(name, value)?))).collect()
}

fn addresses(name: &str, value: &Value) -> Result<Vec<IpAddr>, InvalidSettings> {
    let wrong =
        || InvalidSettings::new(format!("{name:?} is given an address such as \"10.0.0.7\", or a list of them"));
    let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).ok_or_else(wrong);
    match value {
        Value::Array(list) => list.iter().map(address).collect(),
        one => Ok(vec![address(one)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_or_several_are_given_for_a_name() {
        let table: Table = "\"A.example\" = \"10.0.0.7\"\n\"b.example\" = [\"::1\", \"1.1.1.1\"]".parse().unwrap();
        let given = given_addresses(&table).unwrap();
        assert_eq!(given["a.example"], ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(given["b.example"].len(), 2);
        let wrong: Table = "\"a.example\" = \"10.0.0\"".parse().unwrap();
        assert!(given_addresses(&wrong).unwrap_err().to_string().contains("\"a.example\" is given an address"));
    }
}
