//! `https` to a service of this machine: its certificate counts if the system trusts whoever signed it, and only for the
//! names that are in it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::stage::{Broker, Stage};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// Whoever signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A service with a certificate for these names that answers every request with `hello`; gives its port.
    fn serve(&self, names: &[&str]) -> u16 {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        let (listener, config) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), Arc::new(config));
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever does not trust the certificate goes.
                let _ = answer(stream, config.clone());
            }
        });
        port
    }
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let (mut head, mut buffer) = (Vec::new(), [0; 4_096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello")?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// A host whose system trusts what is in a file, and whose plugin `p` may send to `service.test` on this machine.
fn stage(trusted: &Path, port: u16) -> Stage {
    let grants = format!(
        "grants.http = [\"https://service.test:{port}\", \"https://other.test:{port}\", \"https://127.0.0.1:{port}\"]"
    );
    let plugins = PluginsDir::scripted(&["p"]).with_settings("p", &grants);
    let folder = plugins.path().join("config");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("eventstream.toml");
    let resolve = "[plugins.resolve]\n\"service.test\" = \"127.0.0.1\"\n\"other.test\" = \"127.0.0.1\"\n";
    std::fs::write(&file, resolve).unwrap();
    Stage::with(Broker::Embedded, plugins, |options| {
        options.flags(&["--config", file.to_str().unwrap()]).variable("SSL_CERT_FILE", trusted.to_str().unwrap())
    })
}

#[track_caller]
fn send(stage: &Stage, url: &str) -> Value {
    let event = stage.client.wait_ended(&stage.client.post_event("p", &json!({"do": "http", "http": {"url": url}})));
    assert_eq!(event.state, "processed", "{event:?}");
    serde_json::from_str::<Value>(event.result.unwrap().get()).unwrap()[0].clone()
}

#[test]
fn a_certificate_counts_if_the_system_trusts_who_signed_it_and_for_its_names_only() {
    let (ours, folder) = (Authority::named("ours"), tempfile::tempdir().unwrap());
    let trusted = folder.path().join("roots.pem");
    std::fs::write(&trusted, ours.pem()).unwrap();
    let port = ours.serve(&["service.test"]);
    let stage = stage(&trusted, port);
    for _ in 0..2 {
        let answer = send(&stage, &format!("https://service.test:{port}/"));
        assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!("hello")), "{answer}");
    }
    for _ in 0..2 {
        let refused = send(&stage, &format!("https://other.test:{port}/"));
        assert!(refused["error"].as_str().unwrap().contains("TlsCertificateError"), "{refused}");
    }
    let reported = format!("https://other.test:{port} shows a certificate that is not accepted");
    let log = stage.host.wait_for_output(&reported);
    assert_eq!(log.matches(&reported).count(), 1, "{log}");
}

#[test]
fn a_certificate_of_an_authority_that_nobody_trusts_is_refused_and_the_log_says_what_to_do() {
    let (ours, theirs, folder) = (Authority::named("ours"), Authority::named("theirs"), tempfile::tempdir().unwrap());
    let trusted = folder.path().join("roots.pem");
    std::fs::write(&trusted, ours.pem()).unwrap();
    let port = theirs.serve(&["service.test", "127.0.0.1"]);
    let stage = stage(&trusted, port);
    for url in [format!("https://service.test:{port}/"), format!("https://127.0.0.1:{port}/")] {
        let refused = send(&stage, &url);
        assert!(refused["error"].as_str().unwrap().contains("TlsCertificateError"), "{refused}");
    }
    for words in ["UnknownIssuer", "SSL_CERT_FILE", &format!("https://service.test:{port} shows a certificate")] {
        stage.host.wait_for_output(words);
    }
    let status = stage.client.get("/plugins/p").expect(200).json();
    assert!(status["denied"].is_null(), "that is no denial: {status}");
}
