//! What serde_json does not offer for text from outside: a limit on depth for values that are kept unread, and objects
//! whose members are seen as they came, duplicates and all.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Whether no value in the text lies deeper than `max_depth` arrays and objects. Text that is not JSON gets some answer.
pub(crate) fn depth_is_within(text: &str, max_depth: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > max_depth {
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// The members of an object in their order, with duplicates, each value as it was written.
pub(super) struct Members<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl Members<'_> {
    /// The first name that occurs twice.
    pub(super) fn duplicate(&self) -> Option<&str> {
        let mut seen = std::collections::HashSet::new();
        self.0.iter().map(|(name, _)| name.as_str()).find(|name| !seen.insert(*name))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        for (text, depth) in [
            ("1", 0),
            ("[]", 1),
            ("[{\"a\":[]}]", 3),
            ("{\"[[[[\":\"{{{{\"}", 1),
            ("[\"\\\"[[[\"]", 1),
            ("[\"\\\\\",[]]", 2),
            ("[[],[],[]]", 2),
        ] {
            assert!(depth_is_within(text, depth), "{text} is within {depth}");
            assert!(depth == 0 || !depth_is_within(text, depth - 1), "{text} is deeper than {depth} - 1");
        }
    }
}
