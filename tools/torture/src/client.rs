//! S3 over one connection, signed with SigV4.

use crate::Result;
use crate::http::{Connection, Request, Response};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use time::OffsetDateTime;
use time::macros::format_description;

const REGION: &str = "us-east-1";
/// Bodies beyond this go unsigned, to leave the processor to the gateway.
const SIGNED_BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug)]
pub struct Access {
    pub address: SocketAddr,
    pub access_key: String,
    pub secret_key: String,
}

pub struct Client {
    access: Access,
    connection: Connection,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub etag: String,
    pub size: usize,
}

/// An answer that is not a success, as an error.
pub fn refused(what: &str, response: &Response) -> String {
    format!(
        "{what}: status {}: {}",
        response.status,
        response.text().chars().take(400).collect::<String>()
    )
}

impl Client {
    pub fn new(access: &Access) -> Self {
        Self {
            access: access.clone(),
            connection: Connection::new(access.address),
        }
    }

    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let query = canonical_query(query);
        let target = if query.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{query}")
        };
        let headers = sign(&self.access, method, path, &query, headers, body)?;
        self.connection
            .send(&Request {
                method,
                target: &target,
                headers,
                body,
            })
            .await
    }

    /// Lists a whole bucket, page by page.
    pub async fn list(&mut self, bucket: &str, page_keys: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let count = page_keys.to_string();
            let mut query = vec![("list-type", "2"), ("max-keys", count.as_str())];
            if let Some(token) = &token {
                query.push(("continuation-token", token));
            }
            let response = self.send("GET", &format!("/{bucket}"), &query, &[], &[]).await?;
            if response.status != 200 {
                return Err(refused("listing", &response).into());
            }
            let text = response.text();
            for entry in elements(&text, "Contents") {
                entries.push(Entry {
                    key: element(entry, "Key").unwrap_or_default(),
                    etag: element(entry, "ETag").unwrap_or_default().trim_matches('"').to_owned(),
                    size: element(entry, "Size").unwrap_or_default().parse()?,
                });
            }
            token = element(&text, "NextContinuationToken");
            if element(&text, "IsTruncated").as_deref() != Some("true") {
                return Ok(entries);
            }
        }
    }
}

/// The insides of each element of this name.
pub fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    text.split(open.as_str())
        .skip(1)
        .filter_map(|rest| rest.split(close.as_str()).next())
        .collect()
}

pub fn element(text: &str, name: &str) -> Option<String> {
    elements(text, name).first().map(|found| {
        found
            .replace("&quot;", "\"")
            .replace("&#34;", "\"")
            .replace("&amp;", "&")
    })
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn canonical_query(query: &[(&str, &str)]) -> String {
    let mut pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    pairs.sort();
    pairs.join("&")
}

fn hmac(key: &[u8], text: &str) -> Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().to_vec())
}

/// The headers of a signed request, per AWS's "Signature Version 4 signing process".
fn sign(
    access: &Access,
    method: &str,
    path: &str,
    query: &str,
    extra: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<(String, String)>> {
    let now = OffsetDateTime::now_utc();
    let stamp = now.format(format_description!("[year][month][day]T[hour][minute][second]Z"))?;
    let date = now.format(format_description!("[year][month][day]"))?;
    let hash = if body.len() <= SIGNED_BODY_BYTES_MAX {
        hex::encode(Sha256::digest(body))
    } else {
        "UNSIGNED-PAYLOAD".to_owned()
    };
    let mut headers = vec![
        ("host".to_owned(), access.address.to_string()),
        ("x-amz-content-sha256".to_owned(), hash.clone()),
        ("x-amz-date".to_owned(), stamp.clone()),
    ];
    headers.extend(
        extra
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    headers.sort();
    let names = headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(";");
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{hash}");
    let scope = format!("{date}/{REGION}/s3/aws4_request");
    let text = format!(
        "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
        hex::encode(Sha256::digest(canonical))
    );
    let mut key = format!("AWS4{}", access.secret_key).into_bytes();
    for part in [date.as_str(), REGION, "s3", "aws4_request"] {
        key = hmac(&key, part)?;
    }
    let signature = hex::encode(hmac(&key, &text)?);
    headers.push((
        "authorization".to_owned(),
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            access.access_key
        ),
    ));
    Ok(headers)
}
