//! How a server is reached: users and their rights, passwords, commands that a service forbids, TLS, and sockets.

use std::path::PathBuf;

use eventstream::broker::contract::*;
use eventstream::broker::redis::RedisOpenError;
use eventstream::broker::{BrokerOptions, Durability, Error, TlsFiles};
use eventstream_tests::redis::free_port;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::rig::RedisRig;

/// The rights that the documents call enough.
const ENOUGH: &str = "~{es:*}:* +@read +@write +@scripting +@connection +time +info +config|get +bgrewriteaof";

impl RedisRig {
    /// Makes a user with these rights and lets every further broker be that user.
    fn become_user(&mut self, rights: &str) {
        let words = ["ACL", "SETUSER", "app", "reset", "on", ">s3cret@/"].into_iter().chain(rights.split(' '));
        let () = self.admin(&words.collect::<Vec<_>>());
        self.url = self.server.url().replace("redis://", "redis://app:s3cret%40%2F@");
    }

    async fn refusal(&self, url: &str, options: BrokerOptions) -> RedisOpenError {
        eventually("it is refused", || async {
            match self.try_open(url, options.clone()).await.map(|_| ()).unwrap_err() {
                // On a busy machine it may not answer at once.
                RedisOpenError::Unreachable { reason, .. } if reason.contains("in time") => None,
                refusal => Some(refusal),
            }
        })
        .await
    }
}

#[tokio::test]
async fn the_rights_that_the_documents_name_are_enough() {
    let restricted = || {
        let mut rig = RedisRig::new();
        rig.become_user(ENOUGH);
        rig
    };
    let rig = restricted();
    let broker = rig.open(options()).await;
    assert_eq!(broker.health().durability, Durability::Fsync);
    broker.maintain().await.unwrap();
    assert!(broker.health().ready(), "{:?}", broker.health());
    broker.close().await.unwrap();
    work::a_retry_waits_until_it_is_due_and_keeps_its_story(&restricted()).await;
    work::a_dropped_wait_loses_nothing(&restricted()).await;
    ends::a_failed_event_is_kept_and_can_be_replayed(&restricted()).await;
    ends::ended_events_are_filtered(&restricted()).await;
    state::keys_end_in_time(&restricted()).await;
}

#[tokio::test]
async fn a_missing_right_is_named_with_those_that_are_enough() {
    let mut rig = RedisRig::new();
    rig.become_user(&format!("{ENOUGH} -info"));
    let refusal = rig.refusal(&rig.url, options()).await;
    let said = refusal.to_string();
    assert!(matches!(&refusal, RedisOpenError::Misconfigured(_)), "{refusal:?}");
    assert!(said.contains("'info'") && said.contains(ENOUGH), "{said}");

    rig.become_user(&format!("{ENOUGH} -xadd"));
    let broker = rig.open(options()).await;
    let refused = broker.append(appends("a", 1)).await;
    assert!(
        matches!(&refused, Err(Error::Misconfigured(why)) if why.contains("XADD") && why.contains(ENOUGH)),
        "{refused:?}"
    );
    let trouble = broker.health().trouble.unwrap_or_default();
    assert!(trouble.contains("XADD"), "{trouble}");

    rig.become_user(&ENOUGH.replace("es:", "shop:"));
    let said = rig.refusal(&rig.url, options()).await.to_string();
    assert!(said.contains("keys") && said.contains(ENOUGH), "{said}");
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_called_that() {
    let rig = RedisRig::new();
    let () = rig.admin(&["ACL", "SETUSER", "app", "on", ">right", "+@all", "~*"]);
    let at = |user: &str| rig.server.url().replace("redis://", user);
    let said = rig.refusal(&at("redis://app:wrong@"), options()).await;
    assert!(
        matches!(&said, RedisOpenError::Misconfigured(why) if why.contains("wants another user or password")),
        "{said}"
    );
    let () = rig.admin(&["CONFIG", "SET", "requirepass", "right"]);
    let said = rig.refusal(&rig.server.url(), options()).await;
    assert!(matches!(&said, RedisOpenError::Misconfigured(why) if why.contains("wants a password")), "{said}");
    let said = rig.refusal(&at("redis://:ri/ght@"), options()).await.to_string();
    assert!(said.contains("%2F") && !said.contains("ght"), "{said}");
}

#[tokio::test]
async fn a_service_without_client_and_config_is_served_or_gets_advice_that_fits_it() {
    let renamed = ["--rename-command", "CLIENT", "", "--rename-command", "CONFIG", ""];
    let rig = RedisRig::with(&renamed);
    let broker = rig.direct(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    let settled = settle_one(&*broker, &delivery, eventstream::event::Settlement::Processed).await;
    assert_eq!(settled, eventstream::broker::SettleOutcome::Done);
    assert!(broker.health().ready(), "{:?}", broker.health());

    let rig = RedisRig::with(&[&renamed[..], &["--appendonly", "no"]].concat());
    let refusal = rig.refusal(&rig.server.url(), options()).await;
    assert!(
        matches!(&refusal, RedisOpenError::Unsafe(why) if why.contains("another service") && !why.contains("CONFIG SET")),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_socket_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let rig = RedisRig::with(&["--unixsocket", socket.to_str().unwrap()]);
    for scheme in ["redis+unix", "unix"] {
        let url = format!("{scheme}://{}?db=1", socket.display());
        let broker = rig.try_open(&url, options()).await.unwrap();
        broker.append(appends("a", 1)).await.expect("accepted");
    }
    let keys: String = rig.admin(&["INFO", "keyspace"]);
    assert!(keys.contains("db1:") && !keys.contains("db0:"), "{keys}");
}

/// A Redis that speaks TLS, with certificates of its own.
struct TlsRig {
    rig: RedisRig,
    folder: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
    port: u16,
}

impl TlsRig {
    /// A server whose certificate is for `localhost`. It asks its clients for a certificate if `verifies_clients`.
    fn new(verifies_clients: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let port = free_port().unwrap();
        let mut this = Self { rig: RedisRig::new(), folder, authority, port };
        this.certify("server");
        let arguments = [
            ("tls-cert-file", this.path("server.pem")),
            ("tls-key-file", this.path("server.key")),
            ("tls-ca-cert-file", this.path("ca.pem")),
            ("tls-auth-clients", if verifies_clients { "yes" } else { "no" }.into()),
            ("tls-port", port.to_string().into()),
        ];
        for (name, value) in arguments {
            let () = this.rig.admin(&["CONFIG", "SET", name, value.to_str().unwrap()]);
        }
        this.rig.url = this.url("localhost");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.port)
    }

    /// Writes a certificate for `localhost` that the authority signed, and its key.
    fn certify(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn trusting(&self, client: Option<&str>) -> BrokerOptions {
        let file = |ending: &str| client.map(|name| self.path(&format!("{name}.{ending}")));
        let tls = TlsFiles { ca: Some(self.path("ca.pem")), cert: file("pem"), key: file("key") };
        BrokerOptions { tls, ..options() }
    }
}

#[tokio::test]
async fn a_server_is_reached_by_tls_if_its_certificate_names_it_and_is_trusted() {
    let tls = TlsRig::new(false);
    let broker = tls.rig.try_open(&tls.url("localhost"), tls.trusting(None)).await.unwrap();
    broker.append(appends("a", 1)).await.expect("accepted");
    assert_eq!(claim(&*broker, "a", 1).await.len(), 1);
    for (host, options) in [("127.0.0.1", tls.trusting(None)), ("localhost", options())] {
        let refusal = tls.rig.refusal(&tls.url(host), options).await;
        assert!(
            matches!(&refusal, RedisOpenError::Misconfigured(why) if why.contains("broker.tls.ca")),
            "{host}: {refusal:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_wants_certificates_gets_that_of_the_host() {
    let tls = TlsRig::new(true);
    tls.certify("host");
    let broker = tls.rig.try_open(&tls.url("localhost"), tls.trusting(Some("host"))).await.unwrap();
    broker.append(appends("a", 1)).await.expect("accepted");
    let refusal = tls.rig.refusal(&tls.url("localhost"), tls.trusting(None)).await;
    assert!(refusal.to_string().contains("broker.tls.cert"), "{refusal:?}");
}
