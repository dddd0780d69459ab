//! Host objects to which a guest may hold handles, and how many bytes of the guest each one keeps.

use std::any::Any;

/// A client of `wasi:messaging`, which has no state: there is one place to send to.
#[derive(Debug)]
pub struct MessagingClient;

/// A message on its way to a handler, or made by one.
#[derive(Debug, Default)]
pub struct GuestMessage {
    pub(in crate::plugin) topic: Option<String>,
    pub(in crate::plugin) content_type: Option<String>,
    pub(in crate::plugin) data: Vec<u8>,
    pub(in crate::plugin) metadata: Option<Vec<(String, String)>>,
}

impl GuestMessage {
    fn size_bytes(&self) -> usize {
        let pairs = self.metadata.iter().flatten();
        let pairs = pairs.map(|(name, value)| size_of::<(String, String)>() + name.len() + value.len());
        let texts = [&self.topic, &self.content_type].into_iter().flatten().map(String::len);
        self.data.len() + texts.chain(pairs).sum::<usize>()
    }
}

/// The options of a `wasi:messaging` request. Requests are not offered, so they have no effect.
#[derive(Debug)]
pub struct RequestOptions;

/// A handle to the plugin's own state.
pub struct StateBucket;

/// A state key that was read for a compare-and-swap.
pub struct SwapHandle {
    pub(super) state_key: String,
    pub(super) seen: Option<Vec<u8>>,
}

impl SwapHandle {
    fn size_bytes(&self) -> usize {
        self.state_key.len() + self.seen.as_ref().map_or(0, Vec::len)
    }
}

/// How many bytes of a guest an object keeps. Zero for objects that are bounded otherwise.
pub(super) fn held_bytes(object: &dyn Any) -> usize {
    let message = object.downcast_ref().map(GuestMessage::size_bytes);
    message.or_else(|| object.downcast_ref().map(SwapHandle::size_bytes)).unwrap_or(0)
}
