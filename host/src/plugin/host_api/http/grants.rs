//! The grants of outgoing HTTP, and which requests they allow. Pure: nothing here resolves a name.
//!
//! A grant names a scheme, a host, a port and methods, and a request must match all of them. Hosts are compared as text in
//! lower case. A text that only a resolver reads as an address (`0x7f.1`, `2130706433`) is neither a name nor an address
//! and cannot be granted.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hyper::{Method, Uri};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use crate::secret::RedactedUrl;

const MAX_NAME_CHARS: usize = 253;
const MAX_LABEL_CHARS: usize = 63;

/// The grants of one plugin; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct HttpGrants(Vec<HttpGrant>);

/// The right to send requests to one host, or to all hosts below a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGrant {
    origin: GrantOrigin,
    methods: Option<Vec<Method>>,
    /// Whether requests carry the event's id as `Idempotency-Key`.
    pub(super) idempotency_key: bool,
}

/// The target of requests, such as `https://api.example.com:8443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GrantOrigin {
    pub(super) scheme: UrlScheme,
    pub(super) host: GrantHost,
    pub(super) port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UrlScheme {
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GrantHost {
    Address(IpAddr),
    /// Lower-case, without a dot at the end.
    Name(String),
    /// Every name below this domain. Only grants have it.
    Below(String),
}

/// Why a request is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissingGrant {
    /// No grant has the request's scheme, host and port.
    Origin,
    /// A grant has them, but for other methods.
    Method,
}

impl HttpGrants {
    /// Whether there is no grant.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the grants.
    pub fn iter(&self) -> impl Iterator<Item = &HttpGrant> {
        self.0.iter()
    }

    /// The grant that allows a request.
    pub(super) fn find(&self, origin: &GrantOrigin, method: &Method) -> Result<&HttpGrant, MissingGrant> {
        let mut lacking = MissingGrant::Origin;
        for grant in self.0.iter().filter(|grant| grant.origin.covers(origin)) {
            match &grant.methods {
                Some(methods) if !methods.contains(method) => lacking = MissingGrant::Method,
                _ => return Ok(grant),
            }
        }
        Err(lacking)
    }

    /// Whether a grant names exactly this origin, not only a domain above it.
    pub(super) fn names(&self, origin: &GrantOrigin) -> bool {
        self.0.iter().any(|grant| grant.origin == *origin)
    }

    /// The number of grants that name one origin, not a domain.
    pub(super) fn exact_count(&self) -> usize {
        self.0.iter().filter(|grant| !matches!(grant.origin.host, GrantHost::Below(_))).count()
    }

    /// Whether a grant names this address, with the scheme and port of the origin.
    pub(super) fn names_address(&self, address: IpAddr, origin: &GrantOrigin) -> bool {
        self.0.iter().any(|grant| {
            grant.origin.host == GrantHost::Address(address)
                && (grant.origin.scheme, grant.origin.port) == (origin.scheme, origin.port)
        })
    }
}

impl FromIterator<HttpGrant> for HttpGrants {
    fn from_iter<I: IntoIterator<Item = HttpGrant>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}

impl fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)?;
        let Some(methods) = &self.methods else { return Ok(()) };
        let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
        write!(f, " ({})", names.join(", "))
    }
}

impl GrantOrigin {
    /// The origin of a request; `None` if no grant could name it.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let scheme = UrlScheme::named(uri.scheme_str()?)?;
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => scheme.default_port(),
            Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok())?,
            None => return None,
        };
        match GrantHost::read(authority.host())? {
            GrantHost::Below(_) => None,
            host => Some(Self { scheme, host, port }),
        }
    }

    /// The same origin with an address instead of the name.
    pub(super) fn with_address(&self, address: IpAddr) -> Self {
        Self { host: GrantHost::Address(address), ..self.clone() }
    }

    fn covers(&self, wanted: &Self) -> bool {
        let covers_host = match (&self.host, &wanted.host) {
            (GrantHost::Below(domain), GrantHost::Name(name)) => {
                name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (granted, wanted) => granted == wanted,
        };
        covers_host && (self.scheme, self.port) == (wanted.scheme, wanted.port)
    }
}

impl fmt::Display for GrantOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.scheme == UrlScheme::Http { "http" } else { "https" };
        write!(f, "{scheme}://")?;
        match &self.host {
            GrantHost::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
            GrantHost::Address(IpAddr::V4(address)) => write!(f, "{address}")?,
            GrantHost::Name(name) => f.write_str(name)?,
            GrantHost::Below(domain) => write!(f, "*.{domain}")?,
        }
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl UrlScheme {
    fn named(name: &str) -> Option<Self> {
        match name {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl GrantHost {
    fn read(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        match text.strip_prefix("*.") {
            Some(domain) => name(domain).filter(|domain| domain.contains('.')).map(Self::Below),
            None => name(text).map(Self::Name),
        }
    }
}

/// The name in lower case; `None` if it is not a name. A text whose last label is a number is not a name, because a resolver
/// may read it as an address.
fn name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL_CHARS
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.starts_with(|c: char| c.is_ascii_digit())
        && (last.starts_with("0x") || last.chars().all(|c| c.is_ascii_digit()));
    (name.len() <= MAX_NAME_CHARS && name.split('.').all(is_label) && !is_number).then_some(name)
}

impl FromStr for HttpGrant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "a grant is written like \"https://api.example.com\", \"https://*.example.com\" or \
                       \"http://10.0.0.7:8080\"";
        // The text may contain a password.
        let wrong = |what: &str| format!("\"{}\" {what}; {example}", RedactedUrl(text));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("a grant has no scheme; {example}"))?;
        let scheme = UrlScheme::named(scheme).ok_or_else(|| wrong("is neither http nor https"))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(wrong("says more than scheme, host and port"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port =
                    port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("has no port from 1 to 65535"))?;
                (host, port)
            }
            _ => (authority, scheme.default_port()),
        };
        let host = GrantHost::read(host).ok_or_else(|| wrong("names no host"))?;
        Ok(Self { origin: GrantOrigin { scheme, host, port }, methods: None, idempotency_key: false })
    }
}

/// The long form of a grant.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrant {
    url: String,
    methods: Option<Vec<String>>,
    #[serde(default)]
    idempotency_key: bool,
}

impl TryFrom<WrittenGrant> for HttpGrant {
    type Error = String;

    fn try_from(written: WrittenGrant) -> Result<Self, String> {
        let method = |name: &String| {
            let is_upper = !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '-');
            Method::from_bytes(name.as_bytes())
                .ok()
                .filter(|_| is_upper)
                .ok_or_else(|| "a method is written like \"GET\"".to_owned())
        };
        let methods =
            written.methods.map(|names| names.iter().map(method).collect::<Result<Vec<_>, _>>()).transpose()?;
        let grant: Self = written.url.parse()?;
        Ok(Self { methods, idempotency_key: written.idempotency_key, ..grant })
    }
}

impl<'de> Deserialize<'de> for HttpGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct GrantVisitor;

        impl<'de> Visitor<'de> for GrantVisitor {
            type Value = HttpGrant;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text like \"https://api.example.com\" or a table with url, methods, idempotency_key")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HttpGrant, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<HttpGrant, M::Error> {
                let written = WrittenGrant::deserialize(MapAccessDeserializer::new(map))?;
                written.try_into().map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(GrantVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> HttpGrants {
        texts.iter().map(|text| text.parse::<HttpGrant>().unwrap()).collect()
    }

    fn is_granted(grants: &HttpGrants, method: Method, url: &str) -> bool {
        let uri: Uri = url.parse().unwrap();
        GrantOrigin::of(&uri).is_some_and(|origin| grants.find(&origin, &method).is_ok())
    }

    #[test]
    fn scheme_host_and_port_must_be_those_of_the_grant() {
        let granted =
            grants(&["https://api.example.com", "http://10.0.0.7:8080", "https://*.shop.example", "http://[fd00::1]"]);
        for url in [
            "https://api.example.com/a?b",
            "https://API.example.com:443",
            "https://api.example.com./",
            "http://10.0.0.7:8080",
            "https://a.shop.example",
            "https://a.b.shop.example",
            "http://[fd00:0::1]:80/",
        ] {
            assert!(is_granted(&granted, Method::GET, url), "{url} is granted");
        }
        for url in [
            "http://api.example.com",
            "https://api.example.com:8443",
            "https://api.example.com.evil.example",
            "https://evil-api.example.com",
            "https://example.com",
            "https://user@api.example.com",
            "https://api.example.com@evil.example",
            "http://10.0.0.7",
            "https://10.0.0.7:8080",
            "http://[::ffff:10.0.0.7]:8080",
            "http://167772167:8080",
            "http://0xa.7:8080",
            "http://012.0.0.7:8080",
            "http://10.0.7:8080",
            "https://shop.example",
            "https://evilshop.example",
        ] {
            assert!(!is_granted(&granted, Method::GET, url), "{url} is not granted");
        }
    }

    #[test]
    fn a_grant_may_be_for_some_methods() {
        let text =
            r#"[{ "url": "https://a.example", "methods": ["GET"], "idempotency_key": true }, "http://b.example"]"#;
        let granted: HttpGrants = serde_json::from_str(text).unwrap();
        assert!(is_granted(&granted, Method::GET, "https://a.example"));
        assert!(is_granted(&granted, Method::DELETE, "http://b.example"));
        let origin = GrantOrigin::of(&"https://a.example".parse().unwrap()).unwrap();
        assert_eq!(granted.find(&origin, &Method::POST), Err(MissingGrant::Method));
        assert!(granted.find(&origin, &Method::GET).unwrap().idempotency_key);
    }

    #[test]
    fn an_invalid_grant_is_refused_with_an_example() {
        for (text, words) in [
            ("api.example.com", "has no scheme"),
            ("ftp://api.example.com", "neither http nor https"),
            ("https://api.example.com/v1", "more than scheme, host and port"),
            ("https://a@api.example.com", "more than scheme, host and port"),
            ("https://api.example.com:0", "has no port"),
            ("https://*.com", "names no host"),
            ("https://*", "names no host"),
            ("https://2130706433", "names no host"),
            ("http://0x7f.1", "names no host"),
            ("https://", "names no host"),
        ] {
            let error = text.parse::<HttpGrant>().unwrap_err();
            assert!(error.contains(words) && error.contains("https://api.example.com"), "{text}: {error}");
        }
        for text in
            [r#"{"url":"https://a.example","verbs":[]}"#, r#"{"url":"https://a.example","methods":["get"]}"#, "1"]
        {
            assert!(serde_json::from_str::<HttpGrant>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_named_only_for_its_scheme_and_port() {
        let granted = grants(&["http://127.0.0.1:8080", "http://internal.example:8080"]);
        let origin = |url: &str| GrantOrigin::of(&url.parse().unwrap()).unwrap();
        let (local, other) = ("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap());
        assert!(granted.names_address(local, &origin("http://internal.example:8080")));
        assert!(!granted.names_address(local, &origin("http://internal.example:8081")));
        assert!(!granted.names_address(local, &origin("https://internal.example:8080")));
        assert!(!granted.names_address(other, &origin("http://internal.example:8080")));
        assert!(!granted.names_address("::ffff:127.0.0.1".parse().unwrap(), &origin("http://internal.example:8080")));
    }
}
