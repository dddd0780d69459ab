//! Who waits for the answer to a request that changes nothing. The connection adds it to each such request.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

/// The connection of a requester.
pub(super) trait RequesterConnection: Send + Sync {
    /// Whether the client has closed its sending side. It may be gone, or it may still wait for its answer.
    fn may_be_gone(&self) -> bool;

    /// Has the request carried to its end, whatever becomes of the client.
    fn carry_on(&self);
}

/// The client of a request, and its connection.
#[derive(Clone)]
pub(super) struct Requester {
    client: IpAddr,
    connection: Option<Arc<dyn RequesterConnection>>,
}

impl Requester {
    pub(super) fn new(client: IpAddr, connection: Arc<dyn RequesterConnection>) -> Self {
        Self { client, connection: Some(connection) }
    }

    /// A client without a connection.
    pub(super) fn unconnected(client: IpAddr) -> Self {
        Self { client, connection: None }
    }

    /// What the connections of the client have in common.
    pub(super) fn client(&self) -> IpAddr {
        self.client
    }

    pub(super) fn may_be_gone(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.may_be_gone())
    }

    pub(super) fn carry_on(&self) {
        if let Some(connection) = &self.connection {
            connection.carry_on();
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Requester {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get().cloned();
        Ok(known.unwrap_or_else(|| Self::unconnected(Ipv4Addr::UNSPECIFIED.into())))
    }
}
