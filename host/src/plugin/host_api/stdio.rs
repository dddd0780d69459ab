//! Standard output and standard error of a guest: streams that are always ready.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::output::AttemptOutput;

/// The most bytes in one write.
const WRITE_BYTES: usize = 64 * 1_024;

/// One of the two streams.
#[derive(Clone)]
pub(super) struct GuestStream {
    output: Arc<AttemptOutput>,
    write: fn(&AttemptOutput, &[u8]),
}

impl GuestStream {
    /// Standard output.
    pub(super) fn out(output: Arc<AttemptOutput>) -> Self {
        Self { output, write: AttemptOutput::write_stdout }
    }

    /// Standard error.
    pub(super) fn err(output: Arc<AttemptOutput>) -> Self {
        Self { output, write: AttemptOutput::write_stderr }
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl OutputStream for GuestStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.charge(bytes.len()).map_err(|breach| StreamError::Trap(breach.into()))?;
        (self.write)(&self.output, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

/// The same stream for versions of WASI that use host streams.
impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.output.charge(bytes.len()).map_err(std::io::Error::other)?;
        (self.write)(&self.output, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
