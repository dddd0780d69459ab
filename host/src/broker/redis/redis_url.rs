//! From the URL of a store to a link: the address, the credentials and the certificates.

use redis::{ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, TlsCertificates};

use super::connection::{LinkTarget, RedisLink};
use super::open_error::RedisOpenError;
use crate::broker::{BrokerOptions, StoreKind, TlsFiles};
use crate::regular_file;
use crate::secret::{RedactedUrl, SecretText};

/// How a URL for each kind of connection is written.
const FORM: &str = "its form is redis://[user:password@]host[:port][/database]";
const SOCKET_FORM: &str = "its form is redis+unix:///path/to/socket[?db=0&user=name&pass=password]";

/// A link for the URL of a store, not connected yet. Reads the certificates that the options name. Blocks for that time.
///
/// # Errors
/// [`RedisOpenError::BadUrl`]; [`RedisOpenError::Misconfigured`] for certificates that cannot be used.
pub(super) fn link_for_url(url: &str, options: &BrokerOptions) -> Result<RedisLink, RedisOpenError> {
    let bad = |reason: &str| RedisOpenError::BadUrl { url: RedactedUrl(url).to_string(), reason: reason.to_owned() };
    let kind = StoreKind::of_url(url).map_err(|reason| bad(&reason))?;
    let Some((_, rest)) = url.split_once("://") else { return Err(bad(FORM)) };
    // Otherwise the parser takes the middle of the password for the host, and messages would show it.
    if kind != StoreKind::RedisSocket && rest.find(['/', '?', '#']).is_some_and(|end| rest[end..].contains('@')) {
        return Err(bad("encode special characters of the password: @ as %40, / as %2F, ? as %3F, # as %23"));
    }
    if rest.contains('#') {
        return Err(bad("nothing may follow a #; a certificate is always verified, against the one in broker.tls.ca"));
    }
    let info = url.into_connection_info().map_err(|error| bad(&format!("{error}; {}", form_of(kind))))?;
    let (address, cli) = match info.addr() {
        ConnectionAddr::Unix(path) => (path.display().to_string(), format!("redis-cli -s {}", path.display())),
        ConnectionAddr::TcpTls { .. } => (info.addr().to_string(), format!("redis-cli -u rediss://{}", info.addr())),
        _ => (info.addr().to_string(), format!("redis-cli -u redis://{}", info.addr())),
    };
    let password = info.redis_settings().password().map(SecretText::from);
    let info = match kind {
        StoreKind::RedisSocket => info,
        _ => {
            let settings = info.tcp_settings().clone().set_nodelay(true);
            info.set_tcp_settings(settings)
        }
    };
    let client = match kind {
        StoreKind::RedisTls => redis::Client::build_with_tls(info, read_certificates(&options.tls)?)
            .map_err(|error| RedisOpenError::Misconfigured(format!("the certificates cannot be used: {error}")))?,
        _ => redis::Client::open(info).map_err(|error| bad(&error.to_string()))?,
    };
    Ok(RedisLink::new(client, LinkTarget { address, cli, password, namespace: options.namespace.clone() }))
}

fn form_of(kind: StoreKind) -> &'static str {
    if kind == StoreKind::RedisSocket { SOCKET_FORM } else { FORM }
}

fn read_certificates(files: &TlsFiles) -> Result<TlsCertificates, RedisOpenError> {
    let read = |setting: &str, path: &Option<std::path::PathBuf>, begin: &str| {
        let Some(path) = path else { return Ok(None) };
        let unusable =
            |why: String| RedisOpenError::Misconfigured(format!("{setting} = {path:?} cannot be used: {why}"));
        let text = regular_file::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        if !text.contains(begin) {
            return Err(unusable(format!("it is no PEM file with a line {begin:?}")));
        }
        Ok(Some(text.into_bytes()))
    };
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
    let root_cert = read("broker.tls.ca", &files.ca, CERTIFICATE)?;
    let client_cert = read("broker.tls.cert", &files.cert, CERTIFICATE)?;
    let client_key = read("broker.tls.key", &files.key, "PRIVATE KEY-----")?;
    let client_tls =
        client_cert.zip(client_key).map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    Ok(TlsCertificates { client_tls, root_cert })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(url: &str) -> Result<RedisLink, RedisOpenError> {
        link_for_url(url, &BrokerOptions::default())
    }

    #[test]
    fn an_unusable_url_is_explained_without_its_password() {
        for (url, word) in [
            ("redis-sentinel://host", "primary"),
            ("redis-cluster://host", "cluster"),
            ("http://host", "redis://"),
            ("nonsense", "redis://"),
            ("redis://me:hunter2@host/notadatabase", "atabase"),
            ("redis://:hunter2", "redis://***"),
            ("redis://me:hun@ter2/a@host", "%2F"),
            ("redis://me:hun@ter2#a@host", "redis://***@host"),
            ("redis:me:hunter2@host", "redis://"),
            ("rediss://me:hunter2@host/#insecure", "broker.tls.ca"),
            ("redis+unix:///run/redis.sock?db=none&pass=hunter2", "SOCKET"),
        ] {
            let error = link(url).map(|_| ()).unwrap_err().to_string();
            let word = if word == "SOCKET" { SOCKET_FORM } else { word };
            assert!(error.contains(word) && !error.contains("ter2"), "{error}");
        }
    }

    #[test]
    fn every_scheme_has_its_address_and_its_command_line() {
        for (url, address, cli) in [
            ("redis://127.0.0.1:6379/3", "127.0.0.1:6379", "redis-cli -u redis://127.0.0.1:6379"),
            ("valkey://h", "h:6379", "redis-cli -u redis://h:6379"),
            ("rediss://me:p%40ss@h:1", "h:1", "redis-cli -u rediss://h:1"),
            ("valkeys://h:1", "h:1", "redis-cli -u rediss://h:1"),
            ("redis+unix:///run/r@dis.sock?db=1", "/run/r@dis.sock", "redis-cli -s /run/r@dis.sock"),
            ("unix:///run/redis.sock", "/run/redis.sock", "redis-cli -s /run/redis.sock"),
        ] {
            let link = link(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((link.address(), link.cli_words()), (address, cli), "{url}");
        }
    }

    #[test]
    fn certificates_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for (path, why) in [(empty, "BEGIN CERTIFICATE"), (folder.path().join("none.pem"), "No such file")] {
            let tls = TlsFiles { ca: Some(path), ..TlsFiles::default() };
            let options = BrokerOptions { tls, ..BrokerOptions::default() };
            let error = link_for_url("rediss://host", &options).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("broker.tls.ca") && error.contains(why), "{error}");
        }
    }
}
