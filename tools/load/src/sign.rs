//! AWS Signature Version 4, header form, with the signing key and the formatted date kept between requests.
//! Source: AWS "Signature Version 4 signing process" and "Transferring payload in multiple chunks".

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// SHA-256 of nothing, which chunk signatures carry as the hash of their (absent) headers.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
pub const STREAMING: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const HMAC_BLOCK: usize = 64;

pub type Hex = [u8; 64];

/// HMAC-SHA256 whose key is already absorbed: two compressions fewer for each signature.
#[derive(Clone)]
struct KeyedHmac {
    inner: Sha256,
    outer: Sha256,
}

impl KeyedHmac {
    fn new(key: &[u8]) -> Self {
        let mut block = [0u8; HMAC_BLOCK];
        if key.len() > HMAC_BLOCK {
            let digest = Sha256::digest(key);
            block.iter_mut().zip(digest.iter()).for_each(|(b, k)| *b = *k);
        } else {
            block.iter_mut().zip(key).for_each(|(b, k)| *b = *k);
        }
        let mut inner = Sha256::new();
        inner.update(block.map(|b| b ^ 0x36));
        let mut outer = Sha256::new();
        outer.update(block.map(|b| b ^ 0x5c));
        Self { inner, outer }
    }

    fn mac(&self, message: &[u8]) -> [u8; 32] {
        let mut inner = self.inner.clone();
        inner.update(message);
        let mut outer = self.outer.clone();
        outer.update(inner.finalize());
        outer.finalize().into()
    }
}

pub fn hex(digest: &[u8; 32]) -> Hex {
    let digit = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
    let mut out = [0u8; 64];
    for (pair, byte) in out.chunks_exact_mut(2).zip(digest) {
        if let [high, low] = pair {
            *high = digit(byte >> 4);
            *low = digit(byte & 15);
        }
    }
    out
}

pub fn sha256_hex(data: &[u8]) -> Hex {
    hex(&Sha256::digest(data).into())
}

/// What is signed beside the host, the payload hash and the date.
#[derive(Clone, Copy)]
pub enum Extra<'a> {
    None,
    DecodedLength(u64),
    CopySource(&'a str),
}

pub struct Request<'a> {
    pub method: &'a str,
    /// Percent-encoded already.
    pub path: &'a str,
    /// Sorted and percent-encoded already; empty for none.
    pub query: &'a str,
    pub payload_hash: &'a [u8],
    pub extra: Extra<'a>,
}

pub struct Signer {
    access_key: String,
    secret_key: String,
    region: String,
    host: String,
    second: u64,
    /// `20261121T102100Z`
    stamp: String,
    /// `20261121/us-east-1/s3/aws4_request`
    scope: String,
    key: KeyedHmac,
    scratch: Vec<u8>,
}

impl Signer {
    pub fn new(access_key: &str, secret_key: &str, region: &str, host: &str) -> Self {
        Self {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            region: region.to_owned(),
            host: host.to_owned(),
            second: 0,
            stamp: String::new(),
            scope: String::new(),
            key: KeyedHmac::new(&[]),
            scratch: Vec::with_capacity(1024),
        }
    }

    fn refresh(&mut self) {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.refresh_to(second);
    }

    fn refresh_to(&mut self, second: u64) {
        if second == self.second {
            return;
        }
        self.second = second;
        let (year, month, day) = civil(second / 86_400);
        let date = format!("{year:04}{month:02}{day:02}");
        let of_day = second % 86_400;
        self.stamp = format!("{date}T{:02}{:02}{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60);
        let scope = format!("{date}/{}/s3/aws4_request", self.region);
        if scope != self.scope {
            let mut key = KeyedHmac::new(format!("AWS4{}", self.secret_key).as_bytes()).mac(date.as_bytes());
            for part in [self.region.as_str(), "s3", "aws4_request"] {
                key = KeyedHmac::new(&key).mac(part.as_bytes());
            }
            self.key = KeyedHmac::new(&key);
            self.scope = scope;
        }
    }

    /// Appends the request line and the signed headers to `out`, without the blank line that ends the head, and
    /// answers the signature, which seeds those of the chunks.
    pub fn head(&mut self, request: &Request<'_>, out: &mut Vec<u8>) -> Hex {
        self.refresh();
        let signed_names = match request.extra {
            Extra::None => "host;x-amz-content-sha256;x-amz-date",
            Extra::DecodedLength(_) => "host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length",
            Extra::CopySource(_) => "host;x-amz-content-sha256;x-amz-copy-source;x-amz-date",
        };
        let signature = self.signature(request, signed_names);
        push(out, &[request.method.as_bytes(), b" ", request.path.as_bytes()]);
        if !request.query.is_empty() {
            push(out, &[b"?", request.query.as_bytes()]);
        }
        push(
            out,
            &[
                b" HTTP/1.1\r\nhost: ",
                self.host.as_bytes(),
                b"\r\nx-amz-date: ",
                self.stamp.as_bytes(),
            ],
        );
        push(out, &[b"\r\nx-amz-content-sha256: ", request.payload_hash]);
        match request.extra {
            Extra::None => {}
            Extra::DecodedLength(length) => {
                push(
                    out,
                    &[b"\r\ncontent-encoding: aws-chunked\r\nx-amz-decoded-content-length: "],
                );
                push_number(out, length);
            }
            Extra::CopySource(source) => push(out, &[b"\r\nx-amz-copy-source: ", source.as_bytes()]),
        }
        push(
            out,
            &[
                b"\r\nauthorization: AWS4-HMAC-SHA256 Credential=",
                self.access_key.as_bytes(),
                b"/",
            ],
        );
        push(
            out,
            &[
                self.scope.as_bytes(),
                b", SignedHeaders=",
                signed_names.as_bytes(),
                b", Signature=",
            ],
        );
        push(out, &[&signature, b"\r\n"]);
        signature
    }

    fn signature(&mut self, request: &Request<'_>, signed_names: &str) -> Hex {
        let c = &mut self.scratch;
        c.clear();
        push(
            c,
            &[
                request.method.as_bytes(),
                b"\n",
                request.path.as_bytes(),
                b"\n",
                request.query.as_bytes(),
            ],
        );
        push(
            c,
            &[
                b"\nhost:",
                self.host.as_bytes(),
                b"\nx-amz-content-sha256:",
                request.payload_hash,
            ],
        );
        if let Extra::CopySource(source) = request.extra {
            push(c, &[b"\nx-amz-copy-source:", source.as_bytes()]);
        }
        push(c, &[b"\nx-amz-date:", self.stamp.as_bytes()]);
        if let Extra::DecodedLength(length) = request.extra {
            push(c, &[b"\nx-amz-decoded-content-length:"]);
            push_number(c, length);
        }
        push(c, &[b"\n\n", signed_names.as_bytes(), b"\n", request.payload_hash]);
        let canonical = sha256_hex(c);
        c.clear();
        push(
            c,
            &[
                b"AWS4-HMAC-SHA256\n",
                self.stamp.as_bytes(),
                b"\n",
                self.scope.as_bytes(),
                b"\n",
                &canonical,
            ],
        );
        hex(&self.key.mac(c))
    }

    /// The signature of one chunk of a streaming payload.
    pub fn chunk(&mut self, previous: &Hex, data: &[u8]) -> Hex {
        let hash = sha256_hex(data);
        let c = &mut self.scratch;
        c.clear();
        push(
            c,
            &[
                b"AWS4-HMAC-SHA256-PAYLOAD\n",
                self.stamp.as_bytes(),
                b"\n",
                self.scope.as_bytes(),
                b"\n",
            ],
        );
        push(c, &[previous, b"\n", EMPTY_SHA256.as_bytes(), b"\n", &hash]);
        hex(&self.key.mac(c))
    }
}

pub fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

pub fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut divisor = 1u64;
    while number / divisor >= 10 {
        divisor *= 10;
    }
    while divisor > 0 {
        out.push(b'0' + (number / divisor % 10) as u8);
        divisor /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Percent-encodes everything but unreserved characters, as SigV4 wants query values.
pub fn encode_query(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 8);
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Example: GET Object" of "Authenticating requests using the Authorization header" in the S3 documentation.
    #[test]
    fn signing_key_and_date_match_the_documentation() {
        let mut signer = Signer::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "us-east-1",
            "h",
        );
        signer.refresh_to(1_369_353_600);
        assert_eq!(signer.stamp, "20130524T000000Z");
        assert_eq!(signer.scope, "20130524/us-east-1/s3/aws4_request");
        let to_sign = "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n\
                       7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972";
        let signature = hex(&signer.key.mac(to_sign.as_bytes()));
        assert_eq!(
            &signature,
            b"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }

    /// "Transferring payload in multiple chunks" in the S3 documentation.
    #[test]
    fn the_first_documented_chunk_signature() {
        let mut signer = Signer::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "us-east-1",
            "h",
        );
        signer.refresh_to(1_369_353_600);
        let seed = *b"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        let first = signer.chunk(&seed, &[b'a'; 65_536]);
        assert_eq!(
            &first,
            b"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"
        );
    }

    #[test]
    fn numbers_and_dates() {
        let mut out = Vec::new();
        for number in [0, 9, 10, 1_048_576, u64::MAX] {
            out.clear();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
    }
}
