//! The ceiling of accepting: the same HTTP stack as the product's with nothing behind it.
//!
//! Reads the whole body, since every server must, and answers what the product answers. Nothing is parsed, checked, kept
//! or counted.

use std::net::Ipv4Addr;

use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

/// An answer of the product.
const ANSWER: &str = r#"{"message":"Event accepted and queued (embedded)","eventId":"01a20965-ef51-70ef-9b63-5727b7e2e18d","durability":"none","duplicate":false}"#;

/// Serves until it is killed.
pub(super) fn serve() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(accept())
}

#[expect(clippy::disallowed_methods, reason = "what is measured is a server with nothing around it")]
async fn accept() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let router: Router = Router::new().route("/events", post(answer));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = TowerToHyperService::new(router.clone());
        // A client that goes away ends its connection and nothing else.
        tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok() });
    }
}

async fn answer(_body: Bytes) -> impl IntoResponse {
    (StatusCode::ACCEPTED, [(CONTENT_TYPE, "application/json")], Body::from(ANSWER))
}
