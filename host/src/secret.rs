//! Keeps secrets out of messages and logs.
//!
//! A secret is a [`SecretText`] from where it is read to where it is used, so that no output shows it by accident. Text from
//! elsewhere may hold an address with a password; [`RedactedText`] hides it.

use std::fmt::{self, Debug, Display, Formatter, Write};

use serde::Deserialize;

/// The text shown instead of a secret.
const HIDDEN: &str = "***";

/// A text whose `Display` and `Debug` hide it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// The text itself. Do not log it or put it into a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Display for SecretText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Debug for SecretText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// A URL that shows its scheme, host, port and the number of a database, and hides everything else.
///
/// Of a text that is not a URL it shows the scheme at most, since any other part may be a password.
#[derive(Clone, Copy, Debug)]
pub struct RedactedUrl<'a>(pub &'a str);

impl Display for RedactedUrl<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return f.write_str(HIDDEN);
        };
        write!(f, "{scheme}://")?;
        // The last @ ends the password, which may hold any character if it was not encoded.
        let (credentials, place) = rest.rsplit_once('@').map_or((None, rest), |(before, after)| (Some(before), after));
        let (authority, path) = place.split_at(place.find(['/', '?', '#']).unwrap_or(place.len()));
        if !is_authority(authority) {
            return f.write_str(HIDDEN);
        }
        if credentials.is_some() {
            write!(f, "{HIDDEN}@")?;
        }
        let is_database = path
            .strip_prefix('/')
            .is_some_and(|number| number.len() <= 2 && number.chars().all(|c| c.is_ascii_digit()));
        match path.chars().next() {
            Some(mark) if !is_database => write!(f, "{authority}{mark}{HIDDEN}"),
            _ => write!(f, "{authority}{path}"),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Whether the text is a host name or an address, with or without a port.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    let is_name = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || "-._*".contains(c));
    let is_v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.chars().all(|c| c.is_ascii_hexdigit() || ":.%".contains(c)));
    (is_name(host) || is_v6) && port.chars().all(|c| c.is_ascii_digit())
}

/// Whether a text is an address rather than a path. It may hold a password, so it is neither used nor repeated as a path.
/// Without `://`, a text such as `user:password@host` is an address unless it begins as only a path does.
pub fn is_address(text: &str) -> bool {
    let is_path = || text.starts_with(['/', '.', '~']);
    let has_credentials = || text.rsplit_once('@').is_some_and(|(before, _)| before.contains(':'));
    text.contains("://") || (!is_path() && has_credentials())
}

/// An argument of a command line without what may be a password: of an address, the text up to the first colon is left. The
/// result is an address, too, so it is refused where the argument was.
pub fn hide_address(argument: &str) -> String {
    match argument.split_once(':') {
        Some((scheme, rest)) if is_address(argument) => {
            if rest.starts_with("//") {
                format!("{scheme}://{HIDDEN}")
            } else {
                format!("{scheme}:{HIDDEN}@")
            }
        }
        _ => argument.to_owned(),
    }
}

/// A text that hides the user and the password of every URL in it.
#[derive(Clone, Copy, Debug)]
pub struct RedactedText<T>(pub T);

impl<T: Display> Display for RedactedText<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        hide_credentials(&self.0.to_string(), f)
    }
}

/// Writes a text without the users and passwords of its URLs. It hides everything from `://` to the last `@` before a blank
/// or a quote, since all of that may be a password.
fn hide_credentials(text: &str, out: &mut impl Write) -> fmt::Result {
    const MARK: &str = "://";
    let mut rest = text;
    while let Some(mark) = rest.find(MARK) {
        let (before, after) = rest.split_at(mark + MARK.len());
        out.write_str(before)?;
        let end = after.find(|c: char| c.is_whitespace() || "\"'`<>".contains(c)).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                out.write_str(HIDDEN)?;
                &after[at..]
            }
            None => after,
        };
    }
    out.write_str(rest)
}

/// Removes the value from a message of `serde` about a value that does not fit. The value may be a misplaced secret.
pub fn without_value(message: &str) -> String {
    const EXPECTED: &str = ", expected ";
    let quotes = ["invalid type: ", "invalid value: ", "unknown variant "];
    let Some(begin) = quotes.into_iter().find(|begin| message.starts_with(begin)) else { return message.to_owned() };
    let Some((said, expected)) = message[begin.len()..].rsplit_once(EXPECTED) else { return begin.trim().to_owned() };
    let kind = said.split(['"', '`']).next().unwrap_or_default().trim();
    let kind = if kind.is_empty() { "a text" } else { kind };
    format!("{begin}{kind}{EXPECTED}{expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = SecretText::from("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:#?}", Some(&secret)).matches("hunter").count(), 0);
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_a_password() {
        for (given, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://me:hunter2@host:1/0", "redis://***@host:1/0"),
            ("redis://:hun@ter2@host", "redis://***@host"),
            ("redis://:hun/ter2@host/3", "redis://***@host/3"),
            ("redis://:hun?ter#2@[::1]:1", "redis://***@[::1]:1"),
            ("redis+unix:///run/redis?user=a&pass=hunter2", "redis+unix:///***"),
            ("redis://host/0?password=hunter2", "redis://host/***"),
            ("redis://host#hunter2", "redis://host#***"),
            ("redis://host/hunter2", "redis://host/***"),
            ("redis://host/12345678", "redis://host/***"),
            ("http://host/", "http://host/"),
            ("redis://:hunter2", "redis://***"),
            ("redis://me:hunter2", "redis://***"),
            ("me:hunter2@host", "***"),
            ("hunter2://host", "hunter2://host"),
            ("redis:/me:hunter2@host", "***"),
            ("https://*.example.com", "https://*.example.com"),
        ] {
            assert_eq!(RedactedUrl(given).to_string(), shown, "{given}");
        }
    }

    #[test]
    fn an_address_is_told_from_a_path_and_hidden_after_its_first_colon() {
        for (text, shown) in [
            ("redis://me:hunter2@host", "redis://***"),
            ("--plugins=redis://me:hunter2@host", "--plugins=redis://***"),
            ("me:hunter2@host:1", "me:***@"),
            ("--plugins=me:hun@ter2@host", "--plugins=me:***@"),
            ("redis:/me:hunter2@host", "redis:***@"),
            ("mysql:me:hunter2@host", "mysql:***@"),
        ] {
            assert!(is_address(text) && is_address(shown));
            assert_eq!(hide_address(text), shown);
        }
        for path in ["plugins", "a:b", "a@b", "a@b:c", "./me:a@b", "/srv/me:a@b", "../a:b@c"] {
            assert!(!is_address(path), "{path}");
            assert_eq!(hide_address(path), path);
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_replaced_by_its_kind() {
        for (said, told) in [
            ("invalid type: string \"hunter2\", expected a map", "invalid type: string, expected a map"),
            ("invalid type: string \"hun, expected ter2\", expected u32", "invalid type: string, expected u32"),
            (
                "invalid value: integer `5`, expected a nonzero usize",
                "invalid value: integer, expected a nonzero usize",
            ),
            ("unknown variant `hunter2`, expected one of `a`, `b`", "unknown variant a text, expected one of `a`, `b`"),
            ("missing field `url`", "missing field `url`"),
        ] {
            assert_eq!(without_value(said), told);
        }
    }

    #[test]
    fn addresses_in_a_text_lose_their_passwords() {
        for (text, shown) in [
            ("nothing here", "nothing here"),
            ("at http://host/a and redis://h:1", "at http://host/a and redis://h:1"),
            ("at redis://a:hunter2@h: no", "at redis://***@h: no"),
            ("\"redis://:hun@ter/2@h\" and http://u:hunter2@i", "\"redis://***@h\" and http://***@i"),
            ("mail a@b, see http://c", "mail a@b, see http://c"),
            ("://hunter2@", "://***@"),
        ] {
            assert_eq!(RedactedText(text).to_string(), shown);
        }
    }
}
