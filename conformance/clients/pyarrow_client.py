"""pyarrow: streams and range reads of its S3 filesystem, listings, moves, and partitioned Parquet data sets."""

import os
import pathlib
import random

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

SCHEME, _, HOST = os.environ["ENDPOINT"].partition("://")
BUCKET = f"pyarrow-{SCHEME}"
FILES = sorted(pathlib.Path(os.environ["FILES"]).iterdir(), key=lambda path: int(path.name))
s3 = fs.S3FileSystem(
    endpoint_override=HOST,
    scheme=SCHEME,
    access_key=os.environ["AWS_ACCESS_KEY_ID"],
    secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    region=os.environ["AWS_REGION"],
    allow_bucket_creation=True,
    allow_bucket_deletion=True,
    # Its own 3 s are short for a machine that does other things too.
    request_timeout=60,
    connect_timeout=20,
    **({"tls_ca_file_path": os.environ["AWS_CA_BUNDLE"]} if SCHEME == "https" else {}),
)


def streams(path):
    whole, key = path.read_bytes(), f"{BUCKET}/stream/{path.name}"
    with s3.open_output_stream(key, metadata={"Content-Type": "text/x-test"}) as stream:
        stream.write(whole)
    # In pieces: parts of about 10 MiB.
    with s3.open_output_stream(f"{BUCKET}/pieces/{path.name}") as stream:
        for start in range(0, len(whole), 1 << 20):
            stream.write(whole[start : start + (1 << 20)])
    for key in [key, f"{BUCKET}/pieces/{path.name}"]:
        with s3.open_input_stream(key) as stream:
            assert stream.read() == whole
    with s3.open_input_file(key) as file:
        assert file.size() == len(whole)
        places = random.Random(1)
        for _ in range(20):
            start, count = places.randint(0, len(whole)), places.randint(0, 70_000)
            assert file.read_at(count, start) == whole[start : start + count]
        file.seek(len(whole) // 2)
        assert file.read() == whole[len(whole) // 2 :]
    with s3.open_input_stream(f"{BUCKET}/stream/{path.name}") as stream:
        assert stream.metadata()["Content-Type"] == b"text/x-test", stream.metadata()


def compressed():
    with s3.open_output_stream(f"{BUCKET}/text.gz") as stream:
        stream.write(b"text " * 1000)
    with s3.open_input_stream(f"{BUCKET}/text.gz", compression=None) as stream:
        assert stream.read(10)[:2] == b"\x1f\x8b"
    with s3.open_input_stream(f"{BUCKET}/text.gz") as stream:
        assert stream.read() == b"text " * 1000


def listings():
    for key in ["tree/a/1", "tree/a/2", "tree/b/c/3", "tree/é +%/4"]:
        with s3.open_output_stream(f"{BUCKET}/{key}") as stream:
            stream.write(key.encode())
    s3.create_dir(f"{BUCKET}/tree/empty")
    all_found = s3.get_file_info(fs.FileSelector(f"{BUCKET}/tree", recursive=True))
    found = {info.path.removeprefix(f"{BUCKET}/tree/"): info.type for info in all_found}
    folders = {name for name, kind in found.items() if kind == fs.FileType.Directory}
    assert folders == {"a", "b", "b/c", "é +%", "empty"}, found
    assert found.keys() - folders == {"a/1", "a/2", "b/c/3", "é +%/4"}, found
    [one, none] = s3.get_file_info([f"{BUCKET}/tree/a/1", f"{BUCKET}/tree/never"])
    assert (one.type, one.size, none.type) == (fs.FileType.File, 8, fs.FileType.NotFound)
    s3.move(f"{BUCKET}/tree/a/1", f"{BUCKET}/tree/a/moved")
    s3.copy_file(f"{BUCKET}/tree/b/c/3", f"{BUCKET}/tree/copied")
    for key, content in {"a/moved": b"tree/a/1", "copied": b"tree/b/c/3"}.items():
        with s3.open_input_file(f"{BUCKET}/tree/{key}") as file:
            assert file.read() == content
    assert s3.get_file_info(f"{BUCKET}/tree/a/1").type == fs.FileType.NotFound
    s3.delete_file(f"{BUCKET}/tree/copied")
    s3.delete_dir(f"{BUCKET}/tree/a")
    s3.delete_dir_contents(f"{BUCKET}/tree/b")
    left = s3.get_file_info(fs.FileSelector(f"{BUCKET}/tree", recursive=True))
    assert {info.path.removeprefix(f"{BUCKET}/tree/") for info in left} == {"b", "é +%", "é +%/4", "empty"}, left
    try:
        s3.open_input_file(f"{BUCKET}/tree/never").read()
    except FileNotFoundError:
        return
    raise AssertionError("it was found")


def data_sets():
    rows = 300_000
    table = pa.table(
        {
            "year": pa.array([2024 + row % 3 for row in range(rows)]),
            "value": pa.array(range(rows)),
            "text": pa.array([f"row {row}" for row in range(rows)]),
        }
    )
    pq.write_table(table, f"{BUCKET}/one.parquet", filesystem=s3, row_group_size=50_000)
    assert pq.read_table(f"{BUCKET}/one.parquet", filesystem=s3).equals(table)
    # A column of one row group: reads of ranges.
    file = pq.ParquetFile(f"{BUCKET}/one.parquet", filesystem=s3, pre_buffer=True)
    assert file.num_row_groups == 6
    assert file.read_row_group(3, columns=["value"]).column("value").to_pylist() == list(range(150_000, 200_000))
    for format_name in ["parquet", "feather", "csv"]:
        where = {"filesystem": s3, "format": format_name, "partitioning": ds.partitioning(pa.schema([("year", pa.int64())]), flavor="hive")}
        ds.write_dataset(table, f"{BUCKET}/{format_name}", **where)
        # Once more, replacing what is there.
        ds.write_dataset(table, f"{BUCKET}/{format_name}", existing_data_behavior="delete_matching", **where)
        back = ds.dataset(f"{BUCKET}/{format_name}", **where)
        assert len(back.files) == 3 and back.count_rows() == rows
        assert back.to_table().select(table.column_names).sort_by("value").equals(table), format_name
        some = back.to_table(columns=["value"], filter=(pc.field("year") == 2025) & (pc.field("value") < 100))
        assert sorted(some.column("value").to_pylist()) == list(range(1, 100, 3))
    with s3.open_output_stream(f"{BUCKET}/one.csv") as stream:
        csv.write_csv(table, stream)
    with s3.open_input_stream(f"{BUCKET}/one.csv") as stream:
        assert csv.read_csv(stream).equals(table)


def main():
    s3.create_dir(BUCKET)
    for path in FILES:
        streams(path)
    for step in [compressed, listings, data_sets]:
        print(step.__name__, flush=True)
        step()
    s3.delete_dir(BUCKET)
    assert s3.get_file_info(BUCKET).type == fs.FileType.NotFound


main()
