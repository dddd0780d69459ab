//! The kinds of stores that a broker URL names. This is the only list of schemes.

use crate::secret::is_address;

/// The kind of store and of connection that a URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A directory on this machine.
    Embedded,
    /// A Redis or Valkey by TCP.
    Redis,
    /// A Redis or Valkey by TLS.
    RedisTls,
    /// A Redis or Valkey by a Unix socket.
    RedisSocket,
}

impl StoreKind {
    /// The kind of a URL.
    ///
    /// # Errors
    /// No store is named. The text says what to write, and repeats the scheme at most, as the URL may hold a password.
    pub fn of_url(url: &str) -> Result<Self, String> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "embedded" if url.starts_with("embedded://") => {
                Err("write the embedded broker as embedded:DIRECTORY, without //, such as embedded:./data".into())
            }
            "embedded" if url == "embedded:" || is_address(url) => {
                Err("write the embedded broker as embedded:DIRECTORY".into())
            }
            "embedded" => Ok(Self::Embedded),
            "redis" | "valkey" => Ok(Self::Redis),
            "rediss" | "valkeys" => Ok(Self::RedisTls),
            "redis+unix" | "valkey+unix" | "unix" => Ok(Self::RedisSocket),
            "redis-sentinel" | "redis-cluster" => {
                Err(format!("{scheme}:// is not supported in this version; name a primary with redis://HOST:PORT"))
            }
            _ => Err("write the broker as embedded:DIRECTORY, redis://HOST:PORT, rediss://HOST:PORT for TLS, or \
                      redis+unix:///PATH for a socket"
                .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_names_its_kind() {
        for (urls, kind) in [
            (&["embedded:./data"][..], StoreKind::Embedded),
            (&["redis://h", "valkey://h"], StoreKind::Redis),
            (&["rediss://h", "valkeys://h"], StoreKind::RedisTls),
            (&["redis+unix:///s", "valkey+unix:///s", "unix:///s"], StoreKind::RedisSocket),
        ] {
            for url in urls {
                assert_eq!(StoreKind::of_url(url), Ok(kind), "{url}");
            }
        }
        for url in ["http://:hunter2@h", "redis-sentinel://:hunter2@h", "embedded://hunter2", "embedded:", "hunter2"] {
            let reason = StoreKind::of_url(url).unwrap_err();
            assert!(!reason.contains("hunter2") && reason.contains(":"), "{reason}");
        }
    }
}
