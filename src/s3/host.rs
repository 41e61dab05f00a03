//! Virtual-host-style addressing: `bucket.domain` beside `domain/bucket`.

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};

/// The domains that this server answers for. Any other host is taken for the server itself and its requests for
/// path-style, so that an unknown name never turns into a bucket.
pub struct Domains {
    /// Lower case, without port; longest first, so that the most specific one decides.
    domains: Vec<String>,
}

impl Domains {
    /// `None` if there is no domain: then every request is path-style.
    pub fn new(domains: &[String]) -> Option<Self> {
        let mut domains: Vec<String> = domains
            .iter()
            .map(|domain| without_port(domain).trim_matches('.').to_ascii_lowercase())
            .collect();
        domains.retain(|domain| !domain.is_empty());
        domains.sort_by_key(|domain| std::cmp::Reverse(domain.len()));
        domains.dedup();
        if domains.is_empty() {
            None
        } else {
            Some(Self { domains })
        }
    }

    /// Whether a request with this Host names its bucket there.
    pub fn has_bucket(&self, host: &str) -> bool {
        self.bucket(host).is_some()
    }

    /// The bucket in front of the domain.
    fn bucket<'h>(&self, host: &'h str) -> Option<&'h str> {
        let host = without_port(host);
        let host = host.strip_suffix('.').unwrap_or(host);
        for domain in &self.domains {
            let Some(at) = host.len().checked_sub(domain.len()) else {
                continue;
            };
            let Some((front, end)) = host.split_at_checked(at) else {
                continue;
            };
            if end.eq_ignore_ascii_case(domain) {
                if front.is_empty() {
                    return None;
                }
                if let Some(bucket) = front.strip_suffix('.') {
                    return (!bucket.is_empty()).then_some(bucket);
                }
            }
        }
        None
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let parsed = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            // Host names do not tell cases apart; bucket names are lower case.
            Some(bucket) if bucket.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                parsed.with_bucket(bucket.to_ascii_lowercase())
            }
            Some(bucket) => parsed.with_bucket(bucket),
            None => parsed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Domains;
    use proptest::prelude::{any, proptest};
    use s3s::host::S3Host;

    fn bucket(host: &str) -> Option<String> {
        let domains = Domains::new(&["s3.example.com".into(), "example.com:9000".into(), "LOCAL".into()]).unwrap();
        domains.parse_host_header(host).unwrap().bucket().map(str::to_owned)
    }

    #[test]
    fn the_most_specific_domain_decides() {
        assert_eq!(bucket("media.s3.example.com"), Some("media".to_owned()));
        assert_eq!(bucket("a.b.example.com:9000"), Some("a.b".to_owned()));
        assert_eq!(bucket("Media.Local:80"), Some("media".to_owned()));
        assert_eq!(bucket("media.local."), Some("media".to_owned()));
        for host in [
            "s3.example.com",
            "example.com:1",
            "s3-example.com",
            "other.org",
            "",
            ".local",
            "[::1]:9000",
            "local",
        ] {
            assert_eq!(bucket(host), None, "{host}");
        }
        assert!(Domains::new(&[]).is_none());
        assert!(Domains::new(&["".into()]).is_none());
    }

    proptest! {
        #[test]
        fn any_host_is_read(host in any::<String>()) {
            let _ = bucket(&host);
            let _ = bucket(&format!("{host}.example.com"));
        }
    }
}
