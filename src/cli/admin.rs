//! `cairn admin`: asks the admin listener of a running gateway.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::admin::{
    BackupStatus, CheckLine, CheckReport, GcReport, GcResumed, KeysReport, MigrateReport, RotationReport, ScrubReport,
    UsageReport,
};
use crate::object::CheckProgress;

const TIMEOUT: Duration = Duration::from_secs(30);
/// A check says twice a second how far it is, unless the machine is very busy.
const SILENCE: Duration = Duration::from_secs(600);
/// Bytes of an answer: the usage of some hundred thousand buckets.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("no gateway answers on {address}: {source}; is it running, and is this its --admin-listen?")]
    Unreachable { address: SocketAddr, source: io::Error },
    #[error("the gateway answered {status}: {body}")]
    Refused { status: u16, body: String },
    #[error("{address} does not speak like a Cairn gateway")]
    Foreign { address: SocketAddr },
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
    report::<GcReport>(address, "/v1/gc", as_json)
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
    let mut answer = BufReader::new(
        ask(address, "GET", path, SILENCE)
            .map_err(unreachable)?
            .take(ANSWER_BYTES_MAX),
    );
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if answer.read_line(&mut head).map_err(unreachable)? == 0 {
            return Err(foreign());
        }
    }
    let (status, _) = split(&head).ok_or_else(foreign)?;
    if status != 200 {
        let mut body = String::new();
        answer.read_to_string(&mut body).map_err(unreachable)?;
        let body = body.trim().to_owned();
        return Err(AdminError::Refused { status, body });
    }
    let mut line = String::new();
    while answer.read_line(&mut line).map_err(unreachable)? > 0 {
        match serde_json::from_str(&line).map_err(|_| foreign())? {
            CheckLine::Progress(now) => progress.set(now),
            CheckLine::Report(report) => return Ok(*report),
            CheckLine::Error(error) => return Err(AdminError::Failed(error)),
        }
        line.clear();
    }
    Err(AdminError::Failed("the gateway ended it".to_owned()))
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
    let answer = exchange(address, method, path).map_err(|source| AdminError::Unreachable { address, source })?;
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

fn exchange(address: SocketAddr, method: &str, path: &str) -> io::Result<String> {
    let stream = ask(address, method, path, TIMEOUT)?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
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
