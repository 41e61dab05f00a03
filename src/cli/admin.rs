//! `cairn admin`: asks the admin listener of a running gateway.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::admin::{
    BackupStatus, CheckLine, CheckReport, GcResumed, GcStatus, KeysReport, MigrateReport, RotationReport, ScrubReport,
    UsageReport,
};
use crate::object::CheckProgress;

const TIMEOUT: Duration = Duration::from_secs(30);
/// A check says twice a second how far it is, unless the machine is very busy.
const SILENCE: Duration = Duration::from_secs(600);
/// Bytes of an answer, or of a line of one: the usage of some hundred thousand buckets.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("no gateway answers on {address}: {source}; is it running, and is this its --admin-listen?")]
    Unreachable { address: SocketAddr, source: io::Error },
    #[error("the gateway answered {status}: {body}")]
    Refused { status: u16, body: String },
    #[error("{address} does not speak like a Cairn gateway")]
    Foreign { address: SocketAddr },
    #[error(
        "the answer of {address} is larger than {} MiB; read it with another program, as in: curl http://{address}{path}",
        ANSWER_BYTES_MAX >> 20
    )]
    TooLarge { address: SocketAddr, path: String },
    #[error("the gateway could not check its store: {0}")]
    Failed(String),
}

pub fn usage(address: SocketAddr, as_json: bool) -> Result<String, AdminError> {
    report::<UsageReport>(address, "/v1/usage", as_json)
}

pub fn scrub(address: SocketAddr, as_json: bool) -> Result<String, AdminError> {
    report::<ScrubReport>(address, "/v1/scrub", as_json)
}

/// How the move of the packs stands; with `to`, `cloud` or `local`, it is begun first.
pub fn migrate(address: SocketAddr, to: Option<&str>, as_json: bool) -> Result<String, AdminError> {
    if let Some(to) = to {
        request(address, "POST", &format!("/v1/migrate?to={to}"))?;
    }
    report::<MigrateReport>(address, "/v1/migrate", as_json)
}

pub fn backup(address: SocketAddr, as_json: bool) -> Result<String, AdminError> {
    report::<BackupStatus>(address, "/v1/backup", as_json)
}

pub fn gc_status(address: SocketAddr, as_json: bool) -> Result<String, AdminError> {
    report::<GcStatus>(address, "/v1/gc", as_json)
}

pub fn gc_resume(address: SocketAddr) -> Result<String, AdminError> {
    let body = request(address, "POST", "/v1/gc/resume")?;
    let resumed: GcResumed = serde_json::from_str(&body).map_err(|_| AdminError::Foreign { address })?;
    Ok(resumed.to_string())
}

/// Waits as long as it takes, and says in `progress` how far it is.
pub fn check(address: SocketAddr, read_data: bool, progress: &CheckProgress) -> Result<CheckReport, AdminError> {
    let path = if read_data { "/v1/check?read_data" } else { "/v1/check" };
    let address = reachable(address);
    let unreachable = |source| AdminError::Unreachable { address, source };
    let foreign = || AdminError::Foreign { address };
    let mut answer = Answer {
        address,
        path,
        stream: BufReader::new(ask(address, "GET", path, SILENCE).map_err(unreachable)?),
    };
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let line = answer.line()?;
        if line.is_empty() || head.len() as u64 > ANSWER_BYTES_MAX {
            return Err(foreign());
        }
        head.push_str(&line);
    }
    let (status, _) = split(&head).ok_or_else(foreign)?;
    if status != 200 {
        let body = answer.rest()?.trim().to_owned();
        return Err(AdminError::Refused { status, body });
    }
    loop {
        let line = answer.line()?;
        if line.is_empty() {
            return Err(AdminError::Failed("the gateway ended it".to_owned()));
        }
        match serde_json::from_str(&line).map_err(|_| foreign())? {
            CheckLine::Progress(now) => progress.set(now),
            CheckLine::Report(report) => return Ok(*report),
            CheckLine::Error(error) => return Err(AdminError::Failed(error)),
        }
    }
}

pub fn keys(address: SocketAddr) -> Result<KeysReport, AdminError> {
    serde_json::from_str(&get(address, "/v1/keys")?).map_err(|_| AdminError::Foreign { address })
}

pub fn rotate_key(address: SocketAddr) -> Result<RotationReport, AdminError> {
    let body = request(address, "POST", "/v1/keys/rotate")?;
    serde_json::from_str(&body).map_err(|_| AdminError::Foreign { address })
}

fn report<T: DeserializeOwned + fmt::Display>(
    address: SocketAddr,
    path: &str,
    as_json: bool,
) -> Result<String, AdminError> {
    let body = get(address, path)?;
    if as_json {
        return Ok(body);
    }
    let report: T = serde_json::from_str(&body).map_err(|_| AdminError::Foreign { address })?;
    Ok(report.to_string())
}

pub fn health(address: SocketAddr) -> Result<String, AdminError> {
    get(address, "/health/ready")
}

/// One HTTP/1.0 request, so that the answer ends where the connection does.
fn get(address: SocketAddr, path: &str) -> Result<String, AdminError> {
    request(address, "GET", path)
}

fn request(address: SocketAddr, method: &str, path: &str) -> Result<String, AdminError> {
    let address = reachable(address);
    let stream = ask(address, method, path, TIMEOUT).map_err(|source| AdminError::Unreachable { address, source })?;
    let mut answer = Answer {
        address,
        path,
        stream: BufReader::new(stream),
    };
    let answer = answer.rest()?;
    let (status, body) = split(&answer).ok_or(AdminError::Foreign { address })?;
    if status == 200 {
        Ok(body.to_owned())
    } else {
        Err(AdminError::Refused {
            status,
            body: body.trim().to_owned(),
        })
    }
}

/// The status and the body of an answer.
pub(crate) fn split(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body))
}

/// What a gateway answers, of which no more is read than fits.
struct Answer<'a> {
    address: SocketAddr,
    path: &'a str,
    stream: BufReader<TcpStream>,
}

impl Answer<'_> {
    /// The next line; empty: the answer has ended.
    fn line(&mut self) -> Result<String, AdminError> {
        let mut bytes = Vec::new();
        let read = self
            .stream
            .by_ref()
            .take(ANSWER_BYTES_MAX + 1)
            .read_until(b'\n', &mut bytes);
        self.text(read, bytes)
    }

    /// All that has not been read.
    fn rest(&mut self) -> Result<String, AdminError> {
        let mut bytes = Vec::new();
        let read = self.stream.by_ref().take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes);
        self.text(read, bytes)
    }

    fn text(&self, read: io::Result<usize>, bytes: Vec<u8>) -> Result<String, AdminError> {
        let Self { address, path, .. } = *self;
        match read {
            Ok(read) if read as u64 > ANSWER_BYTES_MAX => Err(AdminError::TooLarge {
                address,
                path: path.to_owned(),
            }),
            Ok(_) => String::from_utf8(bytes).map_err(|_| AdminError::Foreign { address }),
            Err(source) => Err(AdminError::Unreachable { address, source }),
        }
    }
}

/// Sends the request. `silence`: how long to wait for each byte of the answer.
fn ask(address: SocketAddr, method: &str, path: &str, silence: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(silence))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    Ok(stream)
}

/// An address that listens on every interface is asked on the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with this head and a line of this many bytes.
    fn gateway(head: &'static str, bytes: u64) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(head.as_bytes());
            let line = "é".repeat(bytes as usize / 2 + 1);
            // Who asked may have heard enough.
            let _ = stream.write_all(&line.as_bytes()[..bytes as usize]);
        });
        address
    }

    #[test]
    fn an_answer_that_is_too_large_is_told_as_that() {
        let (ok, busy) = ("HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.0 409 Conflict\r\n\r\n");
        for head in [ok, busy] {
            let address = gateway(head, ANSWER_BYTES_MAX + 1);
            let told = check(address, true, &CheckProgress::default()).unwrap_err().to_string();
            let way = format!(
                "larger than 64 MiB; read it with another program, as in: curl http://{address}/v1/check?read_data"
            );
            assert!(told.ends_with(&way), "{told}");
        }
        let told = scrub(gateway(ok, ANSWER_BYTES_MAX), false).unwrap_err();
        assert!(matches!(told, AdminError::TooLarge { .. }), "{told}");
        let told = scrub(gateway(ok, 1000), false).unwrap_err();
        assert!(matches!(told, AdminError::Foreign { .. }), "{told}");
    }
}
