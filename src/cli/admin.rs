//! `cairn admin`: asks the admin listener of a running gateway.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::admin::{CheckReport, MigrateReport, ORDER_HEADER, ScrubReport, UsageReport};

const TIMEOUT: Duration = Duration::from_secs(30);
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
        ask(address, "POST", &format!("/v1/migrate?to={to}"), Some(TIMEOUT))?;
    }
    report::<MigrateReport>(address, "/v1/migrate", as_json)
}

/// Waits as long as it takes.
pub fn check(address: SocketAddr, read_data: bool) -> Result<CheckReport, AdminError> {
    let path = if read_data { "/v1/check?read_data" } else { "/v1/check" };
    let body = get_within(address, path, None)?;
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
    get_within(address, path, Some(TIMEOUT))
}

/// `timeout`: without a byte of the answer.
fn get_within(address: SocketAddr, path: &str, timeout: Option<Duration>) -> Result<String, AdminError> {
    ask(address, "GET", path, timeout)
}

fn ask(address: SocketAddr, method: &str, path: &str, timeout: Option<Duration>) -> Result<String, AdminError> {
    let address = reachable(address);
    let answer =
        exchange(address, method, path, timeout).map_err(|source| AdminError::Unreachable { address, source })?;
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

fn exchange(address: SocketAddr, method: &str, path: &str, timeout: Option<Duration>) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(timeout)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream
        .write_all(format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n{ORDER_HEADER}: yes\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
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
