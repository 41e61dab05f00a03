//! Where blobs are kept, as an operator writes it: a URL and what goes with it.

use std::fmt;
use std::path::PathBuf;

/// The kinds of places, each with what its URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `s3://BUCKET/PREFIX`.
    S3 { bucket: String, prefix: String },
    /// `webdav+http://HOST/PATH` and `webdav+https://HOST/PATH`: the server, `http://HOST`, and the path.
    Webdav { server: String, path: String },
    /// `file:///DIRECTORY`.
    Directory(PathBuf),
}

/// A place for blobs, with all that it takes to get there.
#[derive(Clone, PartialEq, Eq)]
pub struct BlobLocation {
    pub place: Place,
    /// The S3 server's URL; `None` is AWS.
    pub endpoint: Option<String>,
    pub region: String,
    /// Of S3 the key pair, of WebDAV the user and the password.
    pub keys: Option<(String, String)>,
}

/// The URL: no secret is part of it.
impl fmt::Display for BlobLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Place::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Place::Webdav { server, path } => write!(f, "webdav+{server}/{path}"),
            Place::Directory(path) => write!(f, "file://{}", path.display()),
        }
    }
}

impl fmt::Debug for BlobLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobLocation({self})")
    }
}

/// A part of a location that cannot be used: which of the group's settings it is, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusable {
    pub part: Part,
    pub message: String,
}

/// The settings of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Url,
    Endpoint,
    AccessKey,
    SecretKey,
}

impl BlobLocation {
    /// A location from its settings; one that is not set is empty.
    pub fn parse(
        url: &str,
        endpoint: &str,
        region: &str,
        access_key: &str,
        secret_key: &str,
    ) -> Result<Self, Unusable> {
        let unusable = |part, message: &str| Unusable {
            part,
            message: message.to_owned(),
        };
        let place = parse_url(url).map_err(|message| Unusable {
            part: Part::Url,
            message,
        })?;
        let is_s3 = matches!(place, Place::S3 { .. });
        if !endpoint.is_empty() && !is_s3 {
            return Err(unusable(Part::Endpoint, "is for s3:// only"));
        }
        if !endpoint.is_empty()
            && !["http://", "https://"]
                .iter()
                .any(|scheme| endpoint.starts_with(scheme))
        {
            return Err(unusable(Part::Endpoint, "must begin with http:// or https://"));
        }
        if endpoint.contains('@') {
            return Err(unusable(Part::Endpoint, USERLESS));
        }
        let keys = match (access_key.is_empty(), secret_key.is_empty()) {
            (false, false) if matches!(place, Place::Directory(_)) => {
                return Err(unusable(Part::AccessKey, "is of no use for file://"));
            }
            (false, false) => Some((access_key.to_owned(), secret_key.to_owned())),
            (true, true) if is_s3 => return Err(unusable(Part::AccessKey, "must be set for s3://")),
            (true, true) => None,
            (true, false) => return Err(unusable(Part::AccessKey, "is missing for the secret key")),
            (false, true) => return Err(unusable(Part::SecretKey, "is missing for the access key")),
        };
        Ok(Self {
            place,
            endpoint: Some(endpoint.trim_end_matches('/').to_owned()).filter(|endpoint| !endpoint.is_empty()),
            region: region.to_owned(),
            keys,
        })
    }
}

const FORMS: &str =
    "must be s3://BUCKET/PREFIX, webdav+https://HOST/PATH, webdav+http://HOST/PATH or file:///DIRECTORY";

const USERLESS: &str = "must hold no user and no password: they have settings of their own";

fn parse_url(url: &str) -> Result<Place, String> {
    let (scheme, rest) = url.split_once("://").ok_or(FORMS)?;
    if scheme == "file" {
        return match rest.strip_prefix('/') {
            Some(_) => Ok(Place::Directory(PathBuf::from(rest))),
            None => Err("must name the directory from the root, as in file:///srv/blobs".to_owned()),
        };
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.contains('@') {
        return Err(USERLESS.to_owned());
    }
    let path = path.trim_matches('/');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    let is_odd = |name: &str| name.is_empty() || name == "." || name == "..";
    if !path.bytes().all(is_plain) || (!path.is_empty() && path.split('/').any(is_odd)) {
        return Err("must have a path of letters, digits, '-', '.', '_' and single '/'".to_owned());
    }
    if host.is_empty() {
        return Err(FORMS.to_owned());
    }
    match scheme {
        "s3" => Ok(Place::S3 {
            bucket: host.to_owned(),
            prefix: path.to_owned(),
        }),
        "webdav+http" | "webdav+https" => Ok(Place::Webdav {
            server: format!("{}://{host}", scheme.trim_start_matches("webdav+")),
            path: path.to_owned(),
        }),
        _ => Err(FORMS.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(url: &str, endpoint: &str, keys: (&str, &str)) -> Result<BlobLocation, Unusable> {
        BlobLocation::parse(url, endpoint, "eu-north-1", keys.0, keys.1)
    }

    #[test]
    fn urls_name_places_and_are_shown_again() {
        let keys = ("AK", "hunter2hunter2");
        for (url, shown) in [
            ("s3://packs", "s3://packs"),
            ("s3://packs/a/b-1/", "s3://packs/a/b-1"),
            (
                "webdav+https://box.example:8443/dav/cairn",
                "webdav+https://box.example:8443/dav/cairn",
            ),
        ] {
            let found = location(url, "", keys).unwrap();
            assert_eq!(found.to_string(), shown);
            assert!(!format!("{found:?}").contains("hunter2"));
        }
        let found = location("file:///srv/blobs", "", ("", "")).unwrap();
        assert_eq!(found.place, Place::Directory(PathBuf::from("/srv/blobs")));
        let found = location("s3://b", "http://127.0.0.1:9000/", keys).unwrap();
        assert_eq!(found.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_setting_that_is_wrong() {
        let keys = ("AK", "SK");
        for (url, endpoint, keys, part) in [
            ("packs", "", keys, Part::Url),
            ("gs://packs", "", keys, Part::Url),
            ("s3://", "", keys, Part::Url),
            ("s3://AK:SK@packs", "", keys, Part::Url),
            ("s3://packs/a//b", "", keys, Part::Url),
            ("s3://packs/../b", "", keys, Part::Url),
            ("s3://packs/a b", "", keys, Part::Url),
            ("file://relative", "", ("", ""), Part::Url),
            ("file:///dir", "http://x", ("", ""), Part::Endpoint),
            ("file:///dir", "", keys, Part::AccessKey),
            ("s3://packs", "127.0.0.1:9000", keys, Part::Endpoint),
            ("s3://packs", "http://AK:SK@127.0.0.1:9000", keys, Part::Endpoint),
            ("s3://packs", "", ("", ""), Part::AccessKey),
            ("s3://packs", "", ("", "SK"), Part::AccessKey),
            ("s3://packs", "", ("AK", ""), Part::SecretKey),
        ] {
            let refused = location(url, endpoint, keys).unwrap_err();
            assert_eq!(refused.part, part, "{url}: {}", refused.message);
        }
    }
}
