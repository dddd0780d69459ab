//! One non-blocking connection of a load: HTTP/1.1 with one request in flight.
//!
//! It reads only the status and the `Content-Length` of an answer, which every measured server sends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// What is read at once.
const READ_BYTES: usize = 4_096;

/// A connection and what is under way on it.
pub(super) struct Connection {
    stream: TcpStream,
    /// A request is in flight. Epoll also reports connections that were opened or can be written to.
    is_busy: bool,
    written: usize,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(super) fn open(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, is_busy: false, written: 0, buffer: vec![0; READ_BYTES], filled: 0 })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Begins to send a request. The previous one must be answered.
    pub(super) fn begin(&mut self, request: &[u8]) -> io::Result<()> {
        (self.is_busy, self.written, self.filled) = (true, 0, 0);
        self.write(request)
    }

    /// Writes and reads as much as it can without waiting. Returns the answer when it is complete.
    pub(super) fn advance(&mut self, request: &[u8]) -> io::Result<Option<(u16, &[u8])>> {
        if !self.is_busy {
            return Ok(None);
        }
        self.write(request)?;
        loop {
            if self.filled == self.buffer.len() {
                self.buffer.resize(2 * self.filled, 0);
            }
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed a connection")),
                Ok(bytes) => self.filled += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Some(Head { status, body_at, body_bytes }) = head(&self.buffer[..self.filled])?
                && self.filled >= body_at + body_bytes
            {
                self.is_busy = false;
                return Ok(Some((status, &self.buffer[body_at..body_at + body_bytes])));
            }
        }
    }

    fn write(&mut self, request: &[u8]) -> io::Result<()> {
        while self.written < request.len() {
            match self.stream.write(&request[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The parts of the head of an answer that a load needs.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) body_at: usize,
    pub(super) body_bytes: usize,
}

/// Parses the head at the beginning of these bytes, if it is complete.
pub(super) fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let invalid = |what: &'static str| io::Error::new(ErrorKind::InvalidData, what);
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| invalid("an answer that is not HTTP"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let status = status.ok_or_else(|| invalid("an answer without a status"))?;
    let body_bytes = length.ok_or_else(|| invalid("an answer without a length"))?;
    Ok(Some(Head { status, body_at: end + 4, body_bytes }))
}
