//! Line and column of a byte or a key in a settings file.

use toml::de::{DeTable, DeValue};

/// The line and column of a byte, both counted from 1.
pub(super) fn of_byte(text: &str, byte: usize) -> String {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

/// The line and column of a key such as `limits.wall_ms`, or of the innermost table around it that is in the text.
pub(super) fn of_key(text: &str, path: &[String]) -> Option<String> {
    let root = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut table: Option<&DeTable<'_>> = Some(root.get_ref());
    for name in path {
        let Some((key, value)) = table.and_then(|table| table.get_key_value(name.as_str())) else { break };
        found = Some(key.span().start);
        table = match value.get_ref() {
            DeValue::Table(inner) => Some(inner),
            _ => None,
        };
    }
    found.map(|byte| of_byte(text, byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_with_its_line_and_column() {
        let text = "types = []\n\n[limits]\n  wall_ms = 5\nretry = { trap = { max = 1 } }\n";
        let place = |path: &[&str]| of_key(text, &path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(place(&["types"]).as_deref(), Some("line 1, column 1"));
        assert_eq!(place(&["limits", "wall_ms"]).as_deref(), Some("line 4, column 3"));
        assert_eq!(place(&["limits", "retry", "trap", "max"]).as_deref(), Some("line 5, column 20"));
        assert_eq!(place(&["limits", "none"]).as_deref(), Some("line 3, column 2"), "the table around it");
        assert_eq!(place(&["none"]), None);
        assert_eq!(of_byte("é\nab", 4), "line 2, column 2");
    }
}
