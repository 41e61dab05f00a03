"""boto3: every checksum, plain and managed transfers, ranges, conditions, copies, listings, presigned URLs."""

import hashlib
import os
import pathlib
import urllib.request
import ssl

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

BUCKET = f"boto3-{os.environ['SCHEME']}"
FILES = sorted(pathlib.Path(os.environ["FILES"]).iterdir(), key=lambda path: int(path.name))
ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
s3 = boto3.client("s3", endpoint_url=os.environ["ENDPOINT"], config=Config(signature_version="s3v4"))


def read(key, **arguments):
    return s3.get_object(Bucket=BUCKET, Key=key, **arguments)["Body"].read()


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
    else:
        raise AssertionError(f"{code} was expected")


def plain(path):
    body = path.read_bytes()
    answer = s3.put_object(Bucket=BUCKET, Key=f"plain/{path.name}", Body=body, Metadata={"size": path.name})
    assert answer["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    head = s3.head_object(Bucket=BUCKET, Key=f"plain/{path.name}")
    assert head["ContentLength"] == len(body) and head["Metadata"] == {"size": path.name}
    assert read(f"plain/{path.name}") == body


def managed(path):
    key = f"managed/{path.name}"
    config = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=5 << 20)
    s3.upload_file(str(path), BUCKET, key, Config=config)
    back = pathlib.Path(os.environ["WORK"]) / "back"
    s3.download_file(BUCKET, key, str(back), Config=config)
    assert back.read_bytes() == path.read_bytes()


def checksums():
    body = os.urandom(100_000)
    for algorithm in ALGORITHMS:
        answer = s3.put_object(Bucket=BUCKET, Key=f"sum/{algorithm}", Body=body, ChecksumAlgorithm=algorithm)
        field = f"Checksum{algorithm}"
        head = s3.head_object(Bucket=BUCKET, Key=f"sum/{algorithm}", ChecksumMode="ENABLED")
        assert head[field] == answer[field], (algorithm, head)
        assert read(f"sum/{algorithm}", ChecksumMode="ENABLED") == body
    refused("BadDigest", s3.put_object, Bucket=BUCKET, Key="bad", Body=b"data", ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==")
    refused("404", s3.head_object, Bucket=BUCKET, Key="bad")


def conditions():
    etag = s3.put_object(Bucket=BUCKET, Key="once", Body=b"1", IfNoneMatch="*")["ETag"]
    refused("PreconditionFailed", s3.put_object, Bucket=BUCKET, Key="once", Body=b"2", IfNoneMatch="*")
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"2", IfMatch=etag)
    refused("PreconditionFailed", s3.put_object, Bucket=BUCKET, Key="once", Body=b"3", IfMatch=etag)
    refused("304", s3.get_object, Bucket=BUCKET, Key="once", IfNoneMatch=s3.head_object(Bucket=BUCKET, Key="once")["ETag"])
    assert read("once") == b"2"


def multipart():
    parts = [os.urandom(5 << 20), os.urandom(5 << 20), b"tail"]
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        answer = s3.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=number, Body=part)
        done.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
    listed = s3.list_parts(Bucket=BUCKET, Key="parts", UploadId=upload)["Parts"]
    assert [part["Size"] for part in listed] == [len(part) for part in parts]
    s3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload, MultipartUpload={"Parts": done})
    assert read("parts") == b"".join(parts)
    assert read("parts", PartNumber=2) == parts[1]
    assert read("parts", Range="bytes=-4") == b"tail"
    s3.copy_object(Bucket=BUCKET, Key="parts-copy", CopySource=f"{BUCKET}/parts")
    assert read("parts-copy") == b"".join(parts)


def listings():
    for name in ["a/1", "a/2", "b/1", "c d+é", "z"]:
        s3.put_object(Bucket=BUCKET, Key=f"list/{name}", Body=b"x")
    page = s3.list_objects_v2(Bucket=BUCKET, Prefix="list/", Delimiter="/")
    assert [prefix["Prefix"] for prefix in page["CommonPrefixes"]] == ["list/a/", "list/b/"]
    assert [row["Key"] for row in page["Contents"]] == ["list/c d+é", "list/z"]
    paginator = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 2})
    assert sum(len(page["Contents"]) for page in paginator) == 5


def presigned():
    url = s3.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "presigned"})
    context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
    request = urllib.request.Request(url, data=b"by url", method="PUT")
    urllib.request.urlopen(request, context=context if url.startswith("https") else None)
    assert read("presigned") == b"by url"


def main():
    s3.create_bucket(Bucket=BUCKET)
    for path in FILES:
        plain(path)
        managed(path)
    for step in [checksums, conditions, multipart, listings, presigned]:
        step()
    while page := s3.list_objects_v2(Bucket=BUCKET).get("Contents"):
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": row["Key"]} for row in page]})
    s3.delete_bucket(Bucket=BUCKET)


main()
