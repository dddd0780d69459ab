//! Two things that serde_json does not offer for untrusted text: a depth limit for values that stay unparsed, and objects
//! with duplicate members.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Whether the text nests at most `max_depth` arrays and objects. For text that is not JSON the answer means nothing.
pub(crate) fn depth_is_within(text: &str, max_depth: usize) -> bool {
    // Most texts have fewer brackets than that in all, and counting them is much faster than tracking depth.
    if count_openings(text) <= max_depth {
        return true;
    }
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

/// Counts the opening brackets and braces in the text, those inside strings included.
fn count_openings(text: &str) -> usize {
    // '[' and '{' differ in one bit. Sums that fit into a byte let the compiler add many bytes at a time.
    let in_part = |part: &[u8]| part.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    text.as_bytes().chunks(usize::from(u8::MAX)).map(|part| usize::from(in_part(part))).sum()
}

/// Up to this many members, comparing each with those before it is faster than filling a set.
const FEW_MEMBERS: usize = 16;

/// The members of an object in order, duplicates included, each value as it was written.
pub(super) struct JsonMembers<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

/// A member's name, borrowed from the text unless it has escapes.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

impl JsonMembers<'_> {
    /// Finds the first name that occurs twice.
    pub(super) fn find_duplicate(&self) -> Option<&str> {
        let mut names = self.0.iter().map(|(name, _)| name.as_ref());
        if self.0.len() <= FEW_MEMBERS {
            let is_first = |place: usize, name: &str| self.0[..place].iter().all(|(before, _)| before != name);
            return names.enumerate().find(|(place, name)| !is_first(*place, name)).map(|(_, name)| name);
        }
        let mut seen = std::collections::HashSet::new();
        names.find(|name| !seen.insert(*name))
    }
}

impl<'de> Deserialize<'de> for JsonMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = JsonMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((MemberName(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(JsonMembers(members))
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
