//! Tests that send requests to servers on this machine, with a resolver that each test controls.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use hyper::Request;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpHooks};

use super::grants::HttpGrant;
use super::outgoing::{OutgoingHttp, SendWorker};
use super::quota::{CONNECTIONS, ConnectionQuotas};
use super::send::{HttpNetwork, SharedNetwork};
use crate::event::EventId;
use crate::plugin::AttemptLimits;

/// A resolver that returns one answer after the other and counts the lookups.
#[derive(Debug, Default)]
struct FlippingResolver {
    answers: Mutex<VecDeque<IpAddr>>,
    asked: AtomicUsize,
}

impl FlippingResolver {
    fn look_up(&self) -> Vec<IpAddr> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.answers.lock().pop_front().into_iter().collect()
    }
}

/// A server that answers each request with the same bytes and counts connections and requests.
struct CountingServer {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl CountingServer {
    async fn start(address: &str, answer: &'static str) -> Self {
        Self::listen(TcpListener::bind(address).await.unwrap(), answer)
    }

    fn listen(listener: TcpListener, answer: &'static str) -> Self {
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            connections: connections.clone(),
            requests: requests.clone(),
        };
        Handle::current().spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let requests = requests.clone();
                Handle::current().spawn(async move {
                    let (mut seen, mut buffer) = (Vec::new(), [0; 4_096]);
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        seen.extend_from_slice(&buffer[..read]);
                        if seen.ends_with(b"\r\n\r\n") {
                            requests.lock().push(String::from_utf8_lossy(&seen).to_lowercase());
                            seen.clear();
                            stream.write_all(answer.as_bytes()).await.unwrap();
                        }
                        if answer.contains("connection: close") {
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The outgoing HTTP of an attempt.
struct HttpRig {
    outgoing: OutgoingHttp,
    network: Arc<HttpNetwork>,
    event: EventId,
}

fn rig(grants: &str, limits: AttemptLimits, resolver: Arc<FlippingResolver>) -> HttpRig {
    rig_of(&Arc::default(), "p", grants, limits, resolver)
}

fn rig_of(
    quotas: &Arc<ConnectionQuotas>,
    plugin: &str,
    grants: &str,
    limits: AttemptLimits,
    resolver: Arc<FlippingResolver>,
) -> HttpRig {
    rig_beside(&[], quotas, plugin, grants, limits, resolver)
}

/// A rig in a server that listens at the addresses `own`.
fn rig_beside(
    own: &[SocketAddr],
    quotas: &Arc<ConnectionQuotas>,
    plugin: &str,
    grants: &str,
    limits: AttemptLimits,
    resolver: Arc<FlippingResolver>,
) -> HttpRig {
    let shared = SharedNetwork {
        look_up: Arc::new(move |_| Ok(resolver.look_up())),
        quotas: quotas.clone(),
        ..SharedNetwork::new(Handle::current(), BTreeMap::new(), Arc::from(own))
    };
    let grants: Vec<HttpGrant> = serde_json::from_str(grants).unwrap();
    let grants = grants.into_iter().collect();
    let network = Arc::new(HttpNetwork::new(plugin, grants, limits, Arc::default(), &shared));
    let event = EventId::new();
    HttpRig { outgoing: OutgoingHttp::new(network.clone(), event), network, event }
}

impl HttpRig {
    async fn send(&mut self, method: &str, url: &str) -> Result<(u16, Result<String, Error>), Error> {
        let body: WasiBody = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().method(method).uri(url).body(body).unwrap();
        let none: SendWorker = Box::new(async { Ok(()) });
        let (response, _) = Box::into_pin(self.outgoing.sender.send_request(request, None, none)).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map(|body| body.to_bytes());
        Ok((status, body.map(|body| String::from_utf8_lossy(&body).into_owned())))
    }

    fn denied(&self) -> u64 {
        self.network.denials.counts().get("http").copied().unwrap_or(0)
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
const OK_AND_CLOSE: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";

fn answers(addresses: &[&str]) -> Arc<FlippingResolver> {
    let answers = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Arc::new(FlippingResolver { answers: Mutex::new(answers), ..FlippingResolver::default() })
}

#[tokio::test]
async fn a_resolver_cannot_change_its_answer_after_the_check() {
    let granted = CountingServer::start("127.0.0.1:0", OK_AND_CLOSE).await;
    let port = granted.port;
    let canary = CountingServer::start(&format!("127.0.0.2:{port}"), OK).await;
    let resolver = answers(&["127.0.0.1", "127.0.0.2", "127.0.0.2"]);
    let grants = format!(r#"["http://flip.example:{port}", "http://127.0.0.1:{port}"]"#);
    let mut rig = rig(&grants, AttemptLimits::default(), resolver.clone());
    let url = format!("http://flip.example:{port}/");
    assert!(matches!(rig.send("GET", &url).await, Ok((200, Ok(body))) if body == "hi"));
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1, "the connection uses the checked address");
    assert!(matches!(rig.send("GET", &url).await, Err(Error::DestinationIpProhibited)));
    assert_eq!((granted.connections(), canary.connections(), rig.denied()), (1, 0, 1));
}

#[tokio::test]
async fn no_grant_allows_requests_to_the_server_itself() {
    let server = CountingServer::start("127.0.0.1:0", OK).await;
    let port = server.port;
    let grants = format!(r#"["http://127.0.0.1:{port}", "http://own.example:{port}"]"#);
    for own in [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0], port))] {
        let resolver = answers(&["127.0.0.1"]);
        let mut rig = rig_beside(&[own], &Arc::default(), "p", &grants, AttemptLimits::default(), resolver);
        for host in ["127.0.0.1", "own.example"] {
            let refused = rig.send("DELETE", &format!("http://{host}:{port}/plugins/other")).await;
            assert!(matches!(refused, Err(Error::DestinationIpProhibited)), "{host}: {refused:?}");
        }
    }
    assert!(server.requests.lock().is_empty());
}

#[tokio::test]
async fn every_request_is_marked_as_sent_by_a_plugin() {
    let server = CountingServer::start("127.0.0.1:0", OK).await;
    let url = format!("http://127.0.0.1:{}", server.port);
    rig(&format!("[{url:?}]"), AttemptLimits::default(), answers(&[])).send("GET", &url).await.unwrap().1.unwrap();
    assert!(server.requests.lock()[0].contains("\r\neventstream-plugin: 1\r\n"));
}

#[tokio::test]
async fn connections_are_reused() {
    let server = CountingServer::start("127.0.0.1:0", OK).await;
    let url = format!("http://127.0.0.1:{}", server.port);
    let mut rig = rig(&format!("[{url:?}]"), AttemptLimits::default(), answers(&[]));
    for _ in 0..3 {
        assert!(matches!(rig.send("GET", &url).await, Ok((200, Ok(_)))));
    }
    assert_eq!((server.connections(), server.requests.lock().len()), (1, 3));
}

#[tokio::test]
async fn requests_carry_the_id_of_the_event_where_a_grant_says_so() {
    let server = CountingServer::start("127.0.0.1:0", OK).await;
    let url = format!("http://127.0.0.1:{}", server.port);
    let grants = format!(r#"[{{ "url": "{url}", "methods": ["POST"], "idempotency_key": true }}, "{url}"]"#);
    let mut rig = rig(&grants, AttemptLimits::default(), answers(&[]));
    rig.send("POST", &url).await.unwrap().1.unwrap();
    rig.send("GET", &url).await.unwrap().1.unwrap();
    let header = format!("idempotency-key: {}", rig.event).to_lowercase();
    let requests = server.requests.lock();
    assert!(requests[0].contains(&header) && !requests[1].contains("idempotency-key"), "{requests:?}");
}

#[tokio::test]
async fn requests_and_response_bytes_are_limited() {
    let server = CountingServer::start("127.0.0.1:0", OK).await;
    let url = format!("http://127.0.0.1:{}", server.port);
    let limits = AttemptLimits { http_response_bytes: 1, http_requests: 2, ..AttemptLimits::default() };
    let mut rig = rig(&format!("[{url:?}]"), limits, answers(&[]));
    let (_, body) = rig.send("GET", &url).await.unwrap();
    assert!(matches!(body, Err(Error::HttpResponseBodySize(Some(1)))), "{body:?}");
    assert!(rig.send("GET", &url).await.is_ok());
    let Err(Error::InternalError(Some(words))) = rig.send("GET", &url).await else {
        panic!("the third is one too many")
    };
    assert!(words.contains("limits.http_requests"), "{words}");
}

#[tokio::test]
async fn a_response_that_does_not_end_times_out() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh"] {
        let server = CountingServer::start("127.0.0.1:0", answer).await;
        let url = format!("http://127.0.0.1:{}", server.port);
        let limits = AttemptLimits { http_timeout_ms: 100, ..AttemptLimits::default() };
        let mut rig = rig(&format!("[{url:?}]"), limits, answers(&[]));
        let ended = rig.send("GET", &url).await.and_then(|(_, body)| body);
        assert!(matches!(ended, Err(Error::HttpResponseTimeout)), "{answer:?}: {ended:?}");
    }
}

#[tokio::test]
async fn connect_is_refused() {
    let mut rig = rig(r#"["http://127.0.0.1"]"#, AttemptLimits::default(), answers(&[]));
    assert!(matches!(rig.send("CONNECT", "http://127.0.0.1").await, Err(Error::HttpRequestMethodInvalid)));
}

#[tokio::test]
async fn no_idle_connection_is_kept_to_origins_below_a_domain() {
    // Idle ones would use up the plugin's share.
    const ORIGINS: usize = 2 * CONNECTIONS;
    let server = CountingServer::start("127.0.0.1:0", OK).await;
    let port = server.port;
    let grants = format!(r#"["http://*.many.example:{port}", "http://127.0.0.1:{port}"]"#);
    let limits = AttemptLimits { http_requests: ORIGINS as u32, ..AttemptLimits::default() };
    let mut rig = rig(&grants, limits, answers(&["127.0.0.1"; ORIGINS]));
    for n in 0..ORIGINS {
        let answer = rig.send("GET", &format!("http://n{n}.many.example:{port}/")).await;
        assert!(matches!(answer, Ok((200, Ok(_)))), "{n}: {answer:?}");
    }
    assert_eq!(server.connections(), ORIGINS);
}

#[tokio::test]
async fn a_plugin_that_uses_up_its_connections_does_not_affect_others() {
    let server = CountingServer::start("127.0.0.1:0", OK).await;
    let url = format!("http://127.0.0.1:{}", server.port);
    let quotas = Arc::<ConnectionQuotas>::default();
    let of = |plugin| rig_of(&quotas, plugin, &format!("[{url:?}]"), AttemptLimits::default(), answers(&[]));
    let (mut greedy, mut other) = (of("greedy"), of("other"));
    let quota = quotas.of("greedy");
    let all = quota.connections.clone().try_acquire_many_owned(CONNECTIONS as u32).unwrap();
    assert!(matches!(greedy.send("GET", &url).await, Err(Error::ConnectionLimitReached)));
    assert!(matches!(other.send("GET", &url).await, Ok((200, Ok(_)))));
    drop(all);
    assert!(matches!(greedy.send("GET", &url).await, Ok((200, Ok(_)))));
    assert_eq!(quota.connections.available_permits(), CONNECTIONS - 1, "one is kept");
}
