//! One keep-alive HTTP/1.1 connection: whole requests out of a reused buffer, answers read with as few copies as the
//! kernel allows. Only what an S3 server sends back is understood.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const SMALL_BUFFER_BYTES: usize = 8 << 10;
const LARGE_BUFFER_BYTES: usize = 256 << 10;
/// A head larger than this is no S3 server's.
const HEAD_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the answer is not HTTP/1.1: {0}")]
    Malformed(&'static str),
    #[error("no answer within the time limit")]
    Timeout,
}

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Where a connection goes.
#[derive(Clone)]
pub struct Peer {
    /// `name:port`, also the Host header.
    pub host: String,
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl Peer {
    pub async fn connect(&self) -> Result<Stream, HttpError> {
        let tcp = TcpStream::connect(&self.host).await?;
        tcp.set_nodelay(true)?;
        let Some(config) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let name = self
            .host
            .rsplit_once(':')
            .map_or(self.host.as_str(), |(name, _)| name)
            .to_owned();
        let name = rustls::pki_types::ServerName::try_from(name).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

#[derive(Default)]
pub struct Answer {
    pub status: u16,
    /// Bytes of the body as they were counted, chunk framing left out.
    pub body_bytes: u64,
    pub content_length: Option<u64>,
    pub etag: String,
    chunked: bool,
    close: bool,
}

pub struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    pub broken: bool,
}

impl Connection {
    /// `body_bytes` is the size of the answers that are expected most: it picks the size of the buffer.
    pub async fn open(peer: &Peer, body_bytes: u64) -> Result<Self, HttpError> {
        let size = if body_bytes > 64 << 10 {
            LARGE_BUFFER_BYTES
        } else {
            SMALL_BUFFER_BYTES
        };
        let stream = peer.connect().await?;
        Ok(Self {
            stream,
            buffer: vec![0; size],
            start: 0,
            end: 0,
            broken: false,
        })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), HttpError> {
        self.stream.write_all(bytes).await?;
        if matches!(self.stream, Stream::Tls(_)) {
            self.stream.flush().await?;
        }
        Ok(())
    }

    fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    async fn fill(&mut self) -> Result<(), HttpError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        let read = self
            .stream
            .read(self.buffer.get_mut(self.end..).unwrap_or_default())
            .await?;
        if read == 0 {
            return Err(HttpError::Closed);
        }
        self.end += read;
        Ok(())
    }

    /// Reads one answer; `has_body` is false after HEAD. The body goes to `sink` piece by piece, with
    /// the status, so that an error's text is told from an object's bytes.
    pub async fn receive(&mut self, has_body: bool, mut sink: impl FnMut(u16, &[u8])) -> Result<Answer, HttpError> {
        let mut answer = loop {
            let answer = self.head().await?;
            if answer.status >= 200 {
                break answer;
            }
        };
        if has_body && answer.status != 204 && answer.status != 304 {
            let status = answer.status;
            let mut sink = |piece: &[u8]| sink(status, piece);
            if answer.chunked {
                self.chunks(&mut answer, &mut sink).await?;
            } else {
                let length = answer.content_length.ok_or(HttpError::Malformed("no content-length"))?;
                self.body(length, &mut sink).await?;
                answer.body_bytes = length;
            }
        }
        self.broken |= answer.close;
        Ok(answer)
    }

    async fn head(&mut self) -> Result<Answer, HttpError> {
        let end = loop {
            if let Some(end) = memmem::find(self.pending(), b"\r\n\r\n") {
                break end;
            }
            if self.pending().len() > HEAD_BYTES_MAX {
                return Err(HttpError::Malformed("endless head"));
            }
            self.fill().await?;
        };
        let answer = parse_head(self.pending().get(..end).unwrap_or_default());
        self.start += end + 4;
        answer
    }

    async fn body(&mut self, length: u64, sink: &mut impl FnMut(&[u8])) -> Result<(), HttpError> {
        let mut left = length;
        while left > 0 {
            if self.start == self.end {
                self.fill().await?;
            }
            let pending = self.pending();
            let take = pending.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            sink(pending.get(..take).unwrap_or_default());
            self.start += take;
            left -= take as u64;
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<String, HttpError> {
        loop {
            if let Some(end) = memmem::find(self.pending(), b"\r\n") {
                let line = String::from_utf8_lossy(self.pending().get(..end).unwrap_or_default()).into_owned();
                self.start += end + 2;
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn chunks(&mut self, answer: &mut Answer, sink: &mut impl FnMut(&[u8])) -> Result<(), HttpError> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| HttpError::Malformed("chunk size"))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(());
            }
            self.body(size, sink).await?;
            answer.body_bytes += size;
            self.line().await?;
        }
    }
}

fn parse_head(head: &[u8]) -> Result<Answer, HttpError> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let status = first
        .get(9..12)
        .and_then(|code| std::str::from_utf8(code).ok())
        .and_then(|code| code.parse().ok());
    let mut answer = Answer {
        status: status.ok_or(HttpError::Malformed("status"))?,
        ..Answer::default()
    };
    for line in lines {
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let value = || {
            std::str::from_utf8(value.get(1..).unwrap_or_default())
                .unwrap_or_default()
                .trim()
        };
        if name.eq_ignore_ascii_case(b"content-length") {
            answer.content_length = value().parse().ok();
        } else if name.eq_ignore_ascii_case(b"etag") {
            value().clone_into(&mut answer.etag);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            answer.chunked = value().eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case(b"connection") {
            answer.close = value().eq_ignore_ascii_case("close");
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_whatever_the_case_of_their_names() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\netag: \"ab\"\r\nConnection: close";
        let answer = parse_head(head).unwrap();
        assert_eq!((answer.status, answer.content_length), (200, Some(12)));
        assert_eq!(
            (answer.etag.as_str(), answer.close, answer.chunked),
            ("\"ab\"", true, false)
        );
        assert!(parse_head(b"SSH-2.0-x").is_err());
    }
}
