"""s3fs on fsspec: put, get, reading and writing by block, append, find, glob, walk, move, copy, parts, metadata, links."""

import os
import pathlib
import random
import ssl
import urllib.request

import fsspec
import s3fs

SCHEME = os.environ["SCHEME"]
CA = os.environ.get("AWS_CA_BUNDLE")
OPTIONS = {
    "endpoint_url": os.environ["ENDPOINT"],
    "key": os.environ["AWS_ACCESS_KEY_ID"],
    "secret": os.environ["AWS_SECRET_ACCESS_KEY"],
    "client_kwargs": {"verify": CA} if CA else {},
    # SigV2 would sign its links otherwise.
    "config_kwargs": {"signature_version": "s3v4"},
    "default_block_size": 5 << 20,
}
BUCKET = f"s3fs-{SCHEME}"
FILES = sorted(pathlib.Path(os.environ["FILES"]).iterdir(), key=lambda path: int(path.name))
WORK = pathlib.Path(os.environ["WORK"])
fs = s3fs.S3FileSystem(**OPTIONS)


def missing(call, *arguments):
    try:
        call(*arguments)
    except FileNotFoundError:
        return
    raise AssertionError("it was found")


def sizes(path):
    whole = path.read_bytes()
    fs.put(str(path), f"{BUCKET}/put/{path.name}")
    assert fs.cat(f"{BUCKET}/put/{path.name}") == whole
    fs.get(f"{BUCKET}/put/{path.name}", str(WORK / "back"))
    assert (WORK / "back").read_bytes() == whole
    with fs.open(f"{BUCKET}/open/{path.name}", "wb") as file:
        for start in range(0, len(whole), 3_000_000):
            file.write(whole[start : start + 3_000_000])
    with fs.open(f"{BUCKET}/open/{path.name}", "rb") as file:
        assert file.read() == whole
        places = random.Random(1)
        for _ in range(20):
            start, count = places.randint(0, len(whole)), places.randint(0, 70_000)
            file.seek(start)
            assert file.read(count) == whole[start : start + count]


def append():
    """Below 5 MiB s3fs writes the object anew, above it copies the old one as the first part."""
    for name in ["65537", "5242881"]:
        old, key = fs.cat(f"{BUCKET}/put/{name}"), f"{BUCKET}/append/{name}"
        fs.copy(f"{BUCKET}/put/{name}", key)
        for more in [b"tail", os.urandom(6_000_000)]:
            with fs.open(key, "ab") as file:
                file.write(more)
            old += more
            assert fs.cat(key) == old


def trees():
    fs.invalidate_cache()
    names = {path.name for path in FILES}
    assert {key.rsplit("/", 1)[1] for key in fs.find(f"{BUCKET}/put")} == names
    assert fs.du(f"{BUCKET}/put") == sum(path.stat().st_size for path in FILES)
    for key in ["tree/a/1.txt", "tree/a/2.bin", "tree/b/c/3.txt", "tree/é +%/4.txt"]:
        fs.pipe(f"{BUCKET}/{key}", key.encode())
    found = fs.glob(f"{BUCKET}/tree/**/*.txt")
    assert found == [f"{BUCKET}/tree/{name}" for name in ["a/1.txt", "b/c/3.txt", "é +%/4.txt"]], found
    assert fs.glob(f"{BUCKET}/tree/?/*") == [f"{BUCKET}/tree/{name}" for name in ["a/1.txt", "a/2.bin", "b/c"]]
    walked = {root.removeprefix(f"{BUCKET}/"): (sorted(folders), sorted(files)) for root, folders, files in fs.walk(f"{BUCKET}/tree")}
    assert walked["tree"] == (["a", "b", "é +%"], [])
    assert walked["tree/a"] == ([], ["1.txt", "2.bin"]) and walked["tree/b"] == (["c"], [])
    assert fs.isdir(f"{BUCKET}/tree/b") and fs.isfile(f"{BUCKET}/tree/a/1.txt") and not fs.exists(f"{BUCKET}/tree/z")
    fs.get(f"{BUCKET}/tree", str(WORK / "tree"), recursive=True)
    for key in ["a/1.txt", "a/2.bin", "b/c/3.txt", "é +%/4.txt"]:
        assert (WORK / "tree" / key).read_text() == f"tree/{key}"
    # Not by mv, which wants an object for each folder, here as on S3.
    fs.copy(f"{BUCKET}/tree/b", f"{BUCKET}/moved", recursive=True)
    fs.rm(f"{BUCKET}/tree/b", recursive=True)
    fs.mv(f"{BUCKET}/tree/a/1.txt", f"{BUCKET}/moved/1.txt")
    assert fs.cat(f"{BUCKET}/moved/1.txt") == b"tree/a/1.txt" and not fs.exists(f"{BUCKET}/tree/a/1.txt")
    assert fs.cat(f"{BUCKET}/moved/c/3.txt") == b"tree/b/c/3.txt"
    missing(fs.info, f"{BUCKET}/tree/b/c/3.txt")
    missing(fs.cat, f"{BUCKET}/never")


def copies():
    fs.copy(f"{BUCKET}/put/65537", f"{BUCKET}/copied")
    assert fs.cat_file(f"{BUCKET}/copied", start=5, end=9) == FILES[[path.name for path in FILES].index("65537")].read_bytes()[5:9]
    # A copy by parts, as s3fs makes it above 5 GiB.
    big = f"{BUCKET}/put/{FILES[-1].name}"
    fsspec.asyn.sync(fs.loop, fs._copy_managed, big, f"{BUCKET}/by-parts", FILES[-1].stat().st_size, 20 << 20)
    assert fs.cat(f"{BUCKET}/by-parts") == FILES[-1].read_bytes()
    fs.merge(f"{BUCKET}/merged", [f"{BUCKET}/put/5242881", f"{BUCKET}/put/65537"])
    assert fs.cat(f"{BUCKET}/merged") == fs.cat(f"{BUCKET}/put/5242881") + fs.cat(f"{BUCKET}/put/65537")


def metadata():
    fs.pipe_file(f"{BUCKET}/meta", b"x")
    fs.setxattr(f"{BUCKET}/meta", colour="blue")
    assert fs.getxattr(f"{BUCKET}/meta", "colour") == "blue"
    info = fs.info(f"{BUCKET}/meta", refresh=True)
    assert info["size"] == 1 and info["ETag"] and info["LastModified"], info
    with urllib.request.urlopen(
        fs.sign(f"{BUCKET}/meta", expiration=60), context=ssl.create_default_context(cafile=CA) if CA else None
    ) as answer:
        assert answer.read() == b"x"
    # As pandas and others come to it: by a URL.
    with fsspec.open(f"s3://{BUCKET}/by-url.txt.gz", "wt", compression="gzip", **OPTIONS) as file:
        file.write("by url")
    with fsspec.open(f"s3://{BUCKET}/by-url.txt.gz", "rt", compression="gzip", **OPTIONS) as file:
        assert file.read() == "by url"


def exclusive():
    fs.pipe_file(f"{BUCKET}/once", b"1", mode="create")
    try:
        fs.pipe_file(f"{BUCKET}/once", b"2", mode="create")
    except OSError as error:
        assert "If-None-Match" in str(error), error
        assert fs.cat(f"{BUCKET}/once") == b"1"
    else:
        raise AssertionError("it was written twice")


def main():
    fs.mkdir(BUCKET)
    for path in FILES:
        sizes(path)
    for step in [append, trees, copies, metadata, exclusive]:
        print(step.__name__, flush=True)
        step()
    fs.rm(f"{BUCKET}/put", recursive=True)
    fs.invalidate_cache()
    assert not fs.exists(f"{BUCKET}/put") and fs.exists(f"{BUCKET}/open")
    fs.rm(BUCKET, recursive=True)
    fs.invalidate_cache()
    assert not fs.exists(BUCKET)


main()
