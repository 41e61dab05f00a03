//! A lean HTTP/1.1 client: one connection, one request at a time.

use crate::Result;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// No answer within this time counts as a hang. Long, since a busy machine may stop the test itself for a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

pub struct Request<'a> {
    pub method: &'a str,
    /// Path and query, encoded.
    pub target: &'a str,
    pub headers: Vec<(String, String)>,
    pub body: &'a [u8],
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn etag(&self) -> String {
        self.header("etag").unwrap_or_default().trim_matches('"').to_owned()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub struct Connection {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// Sends one request; an error leaves open whether it took effect.
    pub async fn send(&mut self, request: &Request<'_>) -> Result<Response> {
        let stream = self.stream.take();
        let (response, stream) = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(stream, request))
            .await
            .map_err(|_| {
                format!(
                    "no answer to {} {} within {ANSWER_TIMEOUT:?}",
                    request.method, request.target
                )
            })??;
        self.stream = stream;
        Ok(response)
    }

    async fn exchange(
        &self,
        stream: Option<BufReader<TcpStream>>,
        request: &Request<'_>,
    ) -> Result<(Response, Option<BufReader<TcpStream>>)> {
        let mut stream = match stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                BufReader::with_capacity(1 << 16, stream)
            }
        };
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", request.body.len()));
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(request.body).await?;
        let (status, headers) = read_head(&mut stream).await?;
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        let empty = request.method == "HEAD" || matches!(status, 204 | 304);
        let closes = response
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !empty {
            response.body = read_body(&mut stream, &response).await?;
        }
        Ok((response, (!closes).then_some(stream)))
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err("the connection was closed".into());
    }
    Ok(line.trim_end().to_owned())
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> Result<(u16, Vec<(String, String)>)> {
    loop {
        let line = read_line(stream).await?;
        let status: u16 = line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or("not an HTTP answer")?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(stream).await?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if status >= 200 {
            return Ok((status, headers));
        }
    }
}

async fn read_body(stream: &mut BufReader<TcpStream>, response: &Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = response.header("content-length") {
        body.resize(length.parse()?, 0);
        stream.read_exact(&mut body).await?;
    } else if response
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        loop {
            let line = read_line(stream).await?;
            let length = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
            let from = body.len();
            body.resize(from + length, 0);
            stream.read_exact(body.get_mut(from..).unwrap_or_default()).await?;
            read_line(stream).await?;
            if length == 0 {
                break;
            }
        }
    } else {
        stream.read_to_end(&mut body).await?;
    }
    Ok(body)
}
