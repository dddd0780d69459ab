//! The socket of a connection. The connection reads and writes it, while others look whether its client is still there.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A socket. Clones share it, and it is closed with the last of them.
#[derive(Clone)]
pub(super) struct ClientSocket(Arc<TcpStream>);

/// What a socket shows of its client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClientSigns {
    /// The client has closed its sending side. It may be gone, or it may still wait for its answer: TCP does not tell.
    pub(super) is_sending_closed: bool,
    /// Something has arrived that was not read yet.
    pub(super) has_unread: bool,
}

impl ClientSocket {
    pub(super) fn new(stream: TcpStream) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("a connection was closed before it was served: {error}");
        }
        Self(Arc::new(stream))
    }

    pub(super) fn signs(&self) -> ClientSigns {
        let is_ready = |interest| self.0.try_io(interest, || Ok(())).is_ok();
        ClientSigns {
            // This interest stands for priority data, which nobody asks for, and for the closed side.
            is_sending_closed: is_ready(Interest::PRIORITY),
            has_unread: is_ready(Interest::READABLE),
        }
    }

    /// Whether the client has closed its sending side.
    pub(super) fn is_sending_closed(&self) -> bool {
        self.signs().is_sending_closed
    }

    /// Whether the client has closed its sending side, unless a health probe was sent before. Asks the system, since a connection
    /// that was just accepted has no signs yet.
    pub(super) fn may_be_left_behind(&self) -> bool {
        let mut poll = [PollFd::new(&*self.0, PollFlags::RDHUP)];
        let is_closed = rustix::event::poll(&mut poll, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
        let mut start = [0_u8; 12];
        if !is_closed {
            return false;
        }
        let peeked = rustix::net::recv(&*self.0, &mut start[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        let bytes = peeked.map_or(0, |(bytes, _)| bytes);
        !is_probe(start.get(..bytes).unwrap_or_default())
    }

    /// Waits until the connection is broken: its client reset it, or its machine is gone.
    pub(super) async fn broken(&self) {
        let _ = self.0.ready(Interest::ERROR).await;
    }

    /// Writes what the socket has room for now, before it is closed. If bytes that arrived stayed unread, closing would reset the
    /// connection, and the client might miss the answer.
    pub(super) fn write_last(&self, bytes: &[u8]) {
        let mut unread = [0; 4 * 1024];
        let _ = rustix::net::recv(&*self.0, &mut unread[..], RecvFlags::DONTWAIT);
        let _ = rustix::net::send(&*self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Repeats a write until the socket takes some bytes.
    fn poll_written(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

/// Whether a request with this beginning is a health probe.
fn is_probe(start: &[u8]) -> bool {
    let path = start.strip_prefix(b"GET ").or_else(|| start.strip_prefix(b"HEAD "));
    path.is_some_and(|path| path.starts_with(b"/livez") || path.starts_with(b"/readyz"))
}

impl AsyncRead for ClientSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.remaining();
            let mut read = Err(ErrorKind::WouldBlock.into());
            // A read that does not fill the buffer took all there is. Saying so here saves the read that would find nothing.
            let _ = self.0.try_io(Interest::READABLE, || {
                read = self.0.try_read_buf(buffer);
                if matches!(read, Ok(bytes) if bytes == 0 || bytes == room) {
                    Ok(())
                } else {
                    Err(ErrorKind::WouldBlock.into())
                }
            });
            match read {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.0, Shutdown::Write).map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// Longer than anything here may take.
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn pair() -> (ClientSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (ClientSocket::new(listener.accept().await.unwrap().0), theirs)
    }

    #[tokio::test]
    async fn bytes_pass_in_both_directions_however_they_are_cut() {
        let (mut ours, theirs) = pair().await;
        let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
        let (mut reads, mut writes) = theirs.into_split();
        let mut back = Vec::new();
        let echo = async {
            let mut read = vec![0; sent.len()];
            for piece in read.chunks_mut(777) {
                ours.read_exact(piece).await.unwrap();
            }
            ours.write_all(&read).await.unwrap();
            ours.shutdown().await.unwrap();
        };
        let all = async { tokio::join!(echo, writes.write_all(&sent), reads.read_to_end(&mut back)) };
        timeout(PATIENCE, all).await.unwrap().2.unwrap();
        assert!(back == sent);
    }

    #[tokio::test]
    async fn a_connection_that_was_left_behind_is_known_before_it_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (request, is_left) in [
            ("GET /events HTTP/1.1\r\n", true),
            ("HEAD /events", true),
            ("GET /livez HTTP/1.1\r\n", false),
            ("HEAD /readyz HTTP/1.1\r\n", false),
            ("POST /events HTTP/1.1\r\n", true),
            ("GET", true),
            ("", true),
        ] {
            let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            theirs.write_all(request.as_bytes()).await.unwrap();
            let open = ClientSocket::new(listener.accept().await.unwrap().0);
            assert!(!open.may_be_left_behind(), "{request}");
            theirs.shutdown().await.unwrap();
            assert_eq!(open.may_be_left_behind(), is_left, "{request}");
        }
    }

    #[tokio::test]
    async fn a_closed_sending_side_is_seen_behind_unread_bytes_and_does_not_count_as_broken() {
        let (ours, mut theirs) = pair().await;
        theirs.write_all(b"more").await.unwrap();
        assert!(!ours.is_sending_closed());
        theirs.shutdown().await.unwrap();
        let seen = async {
            while !ours.is_sending_closed() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, seen).await.unwrap();
        timeout(Duration::from_millis(50), ours.broken()).await.unwrap_err();
        theirs.set_zero_linger().unwrap();
        drop(theirs);
        timeout(PATIENCE, ours.broken()).await.unwrap();
    }
}
