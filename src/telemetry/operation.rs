//! Which S3 operation a request asks for, told from its method, path and query: cheap, and known even for requests that
//! are refused before they are understood. For metrics and logs only; the wire decides for itself.

use http::{HeaderMap, Method};

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// An S3 operation by its AWS name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $($name),*
        }

        impl Operation {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),*
                }
            }
        }
    };
}

operations!(
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    ListMultipartUploads,
    DeleteObjects,
    PostObject,
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    GetObjectAttributes,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    ListParts,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    Other,
);

/// What a path points at, which for virtual-host-style requests depends on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Root,
    Bucket,
    Object,
}

impl Target {
    pub fn of(path: &str, bucket_in_host: bool) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (has_bucket, key) = match (bucket_in_host, path.split_once('/')) {
            (true, _) => (true, path),
            (false, Some((_, key))) => (true, key),
            (false, None) => (!path.is_empty(), ""),
        };
        match (has_bucket, key.is_empty()) {
            (false, _) => Self::Root,
            (true, true) => Self::Bucket,
            (true, false) => Self::Object,
        }
    }
}

/// The query keys that choose an operation.
#[derive(Default)]
struct Chosen {
    list_v2: bool,
    uploads: bool,
    versions: bool,
    location: bool,
    delete: bool,
    upload_id: bool,
    part_number: bool,
    attributes: bool,
    /// A subresource that no operation above has.
    other: bool,
}

impl Chosen {
    fn of(query: &str) -> Self {
        let mut chosen = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "list-type" => chosen.list_v2 = value == "2",
                "uploads" => chosen.uploads = true,
                "versions" => chosen.versions = true,
                "location" => chosen.location = true,
                "delete" => chosen.delete = true,
                "uploadId" => chosen.upload_id = true,
                "partNumber" => chosen.part_number = true,
                "attributes" => chosen.attributes = true,
                "accelerate" | "acl" | "analytics" | "cors" | "encryption" | "inventory" | "legal-hold"
                | "lifecycle" | "logging" | "metrics" | "notification" | "object-lock" | "ownershipControls"
                | "policy" | "policyStatus" | "publicAccessBlock" | "replication" | "requestPayment" | "restore"
                | "retention" | "select" | "session" | "tagging" | "torrent" | "versioning" | "website" => {
                    chosen.other = true
                }
                _ => {}
            }
        }
        chosen
    }
}

impl Operation {
    pub fn of(method: &Method, target: Target, query: Option<&str>, headers: &HeaderMap) -> Self {
        let chosen = query.map(Chosen::of).unwrap_or_default();
        if chosen.other {
            return Self::Other;
        }
        match target {
            Target::Root if *method == Method::GET => Self::ListBuckets,
            Target::Root => Self::Other,
            Target::Bucket => Self::of_bucket(method, &chosen),
            Target::Object => Self::of_object(method, &chosen, headers.contains_key("x-amz-copy-source")),
        }
    }

    fn of_bucket(method: &Method, chosen: &Chosen) -> Self {
        match *method {
            Method::GET if chosen.uploads => Self::ListMultipartUploads,
            Method::GET if chosen.versions => Self::ListObjectVersions,
            Method::GET if chosen.location => Self::GetBucketLocation,
            Method::GET if chosen.list_v2 => Self::ListObjectsV2,
            Method::GET => Self::ListObjects,
            Method::HEAD => Self::HeadBucket,
            Method::PUT => Self::CreateBucket,
            Method::DELETE => Self::DeleteBucket,
            Method::POST if chosen.delete => Self::DeleteObjects,
            Method::POST => Self::PostObject,
            _ => Self::Other,
        }
    }

    fn of_object(method: &Method, chosen: &Chosen, copies: bool) -> Self {
        match *method {
            Method::GET if chosen.upload_id => Self::ListParts,
            Method::GET if chosen.attributes => Self::GetObjectAttributes,
            Method::GET => Self::GetObject,
            Method::HEAD => Self::HeadObject,
            Method::PUT if chosen.part_number && copies => Self::UploadPartCopy,
            Method::PUT if chosen.part_number => Self::UploadPart,
            Method::PUT if copies => Self::CopyObject,
            Method::PUT => Self::PutObject,
            Method::POST if chosen.uploads => Self::CreateMultipartUpload,
            Method::POST if chosen.upload_id => Self::CompleteMultipartUpload,
            Method::DELETE if chosen.upload_id => Self::AbortMultipartUpload,
            Method::DELETE => Self::DeleteObject,
            _ => Self::Other,
        }
    }

    /// Whether the operation reads its request body whole into memory.
    pub fn buffers_body(self, method: &Method) -> bool {
        match self {
            Self::DeleteObjects | Self::CompleteMultipartUpload | Self::CreateBucket => true,
            Self::Other => *method == Method::PUT || *method == Method::POST,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(method: Method, path: &str, query: &str) -> &'static str {
        Operation::of(&method, Target::of(path, false), Some(query), &HeaderMap::new()).name()
    }

    #[test]
    fn requests_are_told_apart() {
        for (method, path, query, name) in [
            (Method::GET, "/", "", "ListBuckets"),
            (Method::GET, "/b", "", "ListObjects"),
            (Method::GET, "/b/", "list-type=2&prefix=x", "ListObjectsV2"),
            (Method::GET, "/b", "acl", "Other"),
            (Method::PUT, "/b/", "", "CreateBucket"),
            (Method::POST, "/b", "delete", "DeleteObjects"),
            (Method::GET, "/b/k", "versionId=null", "GetObject"),
            (Method::PUT, "/b/k/", "x-id=PutObject", "PutObject"),
            (Method::PUT, "/b/k", "partNumber=1&uploadId=u", "UploadPart"),
            (Method::POST, "/b/k", "uploads=", "CreateMultipartUpload"),
            (Method::DELETE, "/b/k", "uploadId=u", "AbortMultipartUpload"),
            (Method::OPTIONS, "/b/k", "", "Other"),
        ] {
            assert_eq!(operation(method, path, query), name, "{path}?{query}");
        }
        assert_eq!(Target::of("/", true), Target::Bucket);
        assert_eq!(Target::of("/k", true), Target::Object);
    }
}
