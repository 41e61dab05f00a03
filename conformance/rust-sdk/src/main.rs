//! aws-sdk-s3 against the gateway that ENDPOINT names: puts, multipart uploads, ranges, copies, listings, deletes.

use std::error::Error;
use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const PART_BYTES: usize = 5 << 20;

fn variable(name: &str) -> Outcome<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set").into())
}

fn client() -> Outcome<Client> {
    let credentials = Credentials::new(
        variable("AWS_ACCESS_KEY_ID")?,
        variable("AWS_SECRET_ACCESS_KEY")?,
        None,
        None,
        "environment",
    );
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(variable("ENDPOINT")?)
        .region(Region::new(variable("AWS_REGION")?))
        .credentials_provider(credentials)
        .force_path_style(true)
        .build();
    Ok(Client::from_conf(config))
}

struct Session {
    client: Client,
    bucket: String,
}

impl Session {
    async fn read(&self, key: &str, range: Option<&str>) -> Outcome<Vec<u8>> {
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .set_range(range.map(str::to_owned));
        Ok(request.send().await?.body.collect().await?.to_vec())
    }

    async fn expect(&self, key: &str, bytes: &[u8]) -> Outcome {
        if self.read(key, None).await? == bytes {
            Ok(())
        } else {
            Err(format!("{key} came back different").into())
        }
    }

    async fn put(&self, key: &str, bytes: &[u8], algorithm: ChecksumAlgorithm) -> Outcome {
        let body = ByteStream::from(bytes.to_vec());
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(body);
        request.checksum_algorithm(algorithm).send().await?;
        self.expect(key, bytes).await
    }

    /// Sends the file as a stream, so that the SDK frames it as aws-chunked with a trailer.
    async fn put_stream(&self, key: &str, path: &Path, bytes: &[u8]) -> Outcome {
        let body = ByteStream::from_path(path).await?;
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .body(body)
            .send()
            .await?;
        self.expect(key, bytes).await
    }

    async fn multipart(&self, key: &str, bytes: &[u8]) -> Outcome {
        let created = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await?;
        let upload = created.upload_id().ok_or("no upload id")?;
        let mut parts = Vec::new();
        for (number, chunk) in (1..).zip(bytes.chunks(PART_BYTES)) {
            let request = self
                .client
                .upload_part()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(upload)
                .part_number(number);
            let answer = request.body(ByteStream::from(chunk.to_vec())).send().await?;
            parts.push(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(answer.e_tag().map(str::to_owned))
                    .set_checksum_crc32(answer.checksum_crc32().map(str::to_owned))
                    .build(),
            );
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(upload);
        request.multipart_upload(parts).send().await?;
        self.expect(key, bytes).await
    }

    async fn empty(&self) -> Outcome {
        loop {
            let page = self.client.list_objects_v2().bucket(&self.bucket).send().await?;
            let keys = page.contents().iter().filter_map(|object| object.key());
            let keys = keys
                .map(|key| ObjectIdentifier::builder().key(key).build())
                .collect::<Result<Vec<_>, _>>()?;
            if keys.is_empty() {
                return Ok(());
            }
            let delete = Delete::builder().set_objects(Some(keys)).build()?;
            self.client
                .delete_objects()
                .bucket(&self.bucket)
                .delete(delete)
                .send()
                .await?;
        }
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let bucket = format!("rust-sdk-{}", variable("SCHEME")?);
    let session = Session {
        client: client()?,
        bucket,
    };
    session.client.create_bucket().bucket(&session.bucket).send().await?;
    for entry in std::fs::read_dir(variable("FILES")?)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or("a file without a name")?;
        let bytes = std::fs::read(&path)?;
        for algorithm in [
            ChecksumAlgorithm::Crc32,
            ChecksumAlgorithm::Crc64Nvme,
            ChecksumAlgorithm::Sha256,
        ] {
            session
                .put(&format!("put/{algorithm}/{name}"), &bytes, algorithm)
                .await?;
        }
        session.put_stream(&format!("stream/{name}"), &path, &bytes).await?;
        if !bytes.is_empty() {
            session.multipart(&format!("multipart/{name}"), &bytes).await?;
            let last = session.read(&format!("multipart/{name}"), Some("bytes=-1")).await?;
            if Some(&last[..]) != bytes.last_chunk::<1>().map(|byte| &byte[..]) {
                return Err("the last byte came back different".into());
            }
        }
        let source = format!("{}/stream/{name}", session.bucket);
        session
            .client
            .copy_object()
            .bucket(&session.bucket)
            .key("copied")
            .copy_source(source)
            .send()
            .await?;
        session.expect("copied", &bytes).await?;
    }
    session.empty().await?;
    session.client.delete_bucket().bucket(&session.bucket).send().await?;
    Ok(())
}
