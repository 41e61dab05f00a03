"""pyarrow: streams of its S3 filesystem, and a partitioned Parquet data set."""

import os
import pathlib

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

SCHEME, _, host = os.environ["ENDPOINT"].partition("://")
arguments = {"tls_ca_file_path": os.environ["AWS_CA_BUNDLE"]} if SCHEME == "https" else {}
s3 = fs.S3FileSystem(
    endpoint_override=host,
    scheme=SCHEME,
    access_key=os.environ["AWS_ACCESS_KEY_ID"],
    secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    region=os.environ["AWS_REGION"],
    allow_bucket_creation=True,
    allow_bucket_deletion=True,
    **arguments,
)
bucket = f"pyarrow-{SCHEME}"
s3.create_dir(bucket)
for path in pathlib.Path(os.environ["FILES"]).iterdir():
    with s3.open_output_stream(f"{bucket}/stream/{path.name}") as stream:
        stream.write(path.read_bytes())
    with s3.open_input_file(f"{bucket}/stream/{path.name}") as file:
        assert file.read() == path.read_bytes()
table = pa.table({"year": [2024, 2025, 2026] * 1000, "value": list(range(3000))})
ds.write_dataset(table, f"{bucket}/set", filesystem=s3, format="parquet", partitioning=["year"])
back = ds.dataset(f"{bucket}/set", filesystem=s3, format="parquet", partitioning=["year"]).to_table()
assert sorted(back.column("value").to_pylist()) == list(range(3000))
s3.delete_dir(bucket)
