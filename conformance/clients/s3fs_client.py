"""s3fs on fsspec: put, get, open for writing and reading, find, copy, recursive removal."""

import os
import pathlib

import s3fs

SCHEME = os.environ["SCHEME"]
fs = s3fs.S3FileSystem(
    endpoint_url=os.environ["ENDPOINT"],
    key=os.environ["AWS_ACCESS_KEY_ID"],
    secret=os.environ["AWS_SECRET_ACCESS_KEY"],
    client_kwargs={"verify": os.environ.get("AWS_CA_BUNDLE")} if SCHEME == "https" else {},
    default_block_size=5 << 20,
)
bucket = f"s3fs-{SCHEME}"
fs.mkdir(bucket)
for path in pathlib.Path(os.environ["FILES"]).iterdir():
    fs.put(str(path), f"{bucket}/put/{path.name}")
    assert fs.cat(f"{bucket}/put/{path.name}") == path.read_bytes()
    with fs.open(f"{bucket}/open/{path.name}", "wb") as file:
        file.write(path.read_bytes())
    with fs.open(f"{bucket}/open/{path.name}", "rb") as file:
        assert file.read() == path.read_bytes()
fs.invalidate_cache()
assert len(fs.find(f"{bucket}/put")) == len(os.listdir(os.environ["FILES"]))
fs.copy(f"{bucket}/put/65537", f"{bucket}/copied")
assert fs.cat_file(f"{bucket}/copied", start=5, end=9) == fs.cat(f"{bucket}/put/65537")[5:9]
fs.rm(bucket, recursive=True)
