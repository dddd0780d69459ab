//! The name of a plugin.

/// The longest name of a plugin, in bytes.
pub const MAX_PLUGIN_NAME_BYTES: usize = 128;

/// Whether a text is a valid name of a plugin: 1 to 128 letters, digits and `._-` that start with a letter or digit. Such a
/// name is also an event type, a lane, and safe as a part of a path.
pub fn is_plugin_name(text: &str) -> bool {
    text.len() <= MAX_PLUGIN_NAME_BYTES
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_alphabet_and_length() {
        for name in ["a", "order.paid", "0_x-y", &"a".repeat(128)] {
            assert!(is_plugin_name(name), "{name:?}");
        }
        for text in ["", ".a", "-a", "_", "a b", "a/b", "..", "é", &"a".repeat(129)] {
            assert!(!is_plugin_name(text), "{text:?}");
        }
    }
}
