"""The issue's comparisons that are more than one run of the load generator."""

import io
import os
import pathlib
import random
import re
import tarfile
import time
import urllib.request

from s3 import Client

MIB = 1 << 20


def mark(good):
    return "pass" if good else "MISS"


def page_cost(bench, server, bucket, options):
    """Server CPU of one page of 1,000 keys, in µs: the least of three runs, since noise only adds."""
    full = ["--op", "list", "--concurrency", "2", "--size", "0", "--bucket", bucket, "--no-fill", "--pages", "1", "--warmup", "0.5s"]
    runs = [bench.load(server, full + options)["server"]["server_cpu_us_per_request"] or 0.0 for _ in range(3)]
    return min(runs)


def listing(bench, server, keys=1_000_000, small=2_000):
    """A page from a large bucket against a page from a small one; both, then after a mass delete."""
    fill = ["--op", "list", "--size", "0", "--concurrency", "32", "--fill-only", "--deep"]
    for bucket, count in (("small", small), ("large", keys)):
        begun = time.monotonic()
        bench.load(server, fill + ["--bucket", bucket, "--keys", str(count)])
        print(f"{count} keys made in {time.monotonic() - begun:.0f} s", flush=True)
    middle = keys // 2
    after = f"o/{middle // 10_000:05}/{middle // 100:07}/{middle:09}"
    places = {
        "front": ([], []),
        "middle": (["--start-after", after], ["--start-after", "o/00000/0000009/000000999"]),
# Ten folders of 100 keys on both sides; in the large bucket those right behind the keys that get deleted.
        "delimiter over deep prefixes": (["--delimiter", "/", "--prefix", "o/00010/000100"], ["--delimiter", "/", "--prefix", "o/00000/000000"]),
    }
    result, misses = {}, 0

    def compare(when):
        nonlocal misses
        for place, (of_large, of_small) in places.items():
            cost, base = page_cost(bench, server, "large", of_large), page_cost(bench, server, "small", of_small)
            ratio = cost / base if base else float("inf")
            good = ratio <= 1.2
            misses += not good
            result[f"{when}, {place}"] = {"large_us": cost, "small_us": base, "ratio": ratio}
            print(f"{when}, {place:<30}{cost:>10.0f} µs against {base:>8.0f} µs: {ratio:.2f} (at most 1.20) {mark(good)}", flush=True)

    compare("filled")
    bench.load(server, ["--op", "delete", "--size", "0", "--concurrency", "32", "--deep", "--bucket", "large", "--keys", "100000", "--no-fill", "--duration", "600s"])
    compare("after 100,000 deletes")
    return result, misses


def connections(bench, server, seconds=60):
    """1,000 and then 2,000 keep-alive connections, all of them busy."""
    result, misses = {}, 0
    options = ["--op", "mixed", "--size", "4KiB", "--keys", "2000"]
    bench.load(server, options + ["--concurrency", "16", "--duration", "3s"])
    before = server.resident()
    for count in (1000, 2000):
        document = bench.load(server, options + ["--concurrency", str(count), "--duration", f"{seconds}s"])["server"]
        grown = document["resident_bytes"] - before
        good = not document["failed"] and document["requests_by_connection_min"] > 0 and grown <= 64 * MIB
        misses += not good
        result[str(count)] = {**document, "grown_bytes": grown}
        print(
            f"{count} connections: {document['requests_per_s']:.0f} requests/s, p99 {document['latency_us']['p99'] / 1000:.0f} ms, failed {document['failed']}, "
            f"SlowDown {document['slow_downs']}, fewest on one connection {document['requests_by_connection_min']}, resident {grown / MIB:+.0f} MiB (at most +64) {mark(good)}",
            flush=True,
        )
    return result, misses


def isolation(bench, server):
    """p99 of 4 KiB PUTs at 8 clients: alone, beside a 5 GiB upload and beside 10,000-part uploads that complete."""
    small = ["--op", "put", "--size", "4KiB", "--concurrency", "8", "--duration", "15s"]
    alone = bench.load(server, small)["server"]["latency_us"]["p99"]
    loads = {
        "5 GiB upload": ["--op", "put", "--size", "5GiB", "--concurrency", "1", "--count", "1", "--bucket", "big"],
        "10,000-part complete": ["--op", "multipart", "--part-copy", "--part-size", "5MiB", "--size", "50000MiB", "--concurrency", "1", "--count", "1", "--bucket", "parts"],
    }
    result, misses = {"alone_p99_us": alone}, 0
    for name, options in loads.items():
        beside = bench.background(server, options)
        time.sleep(1)
        worst = bench.load(server, small)["server"]["latency_us"]["p99"]
        output, _ = beside.communicate(timeout=900)
        ratio = worst / alone
        good = ratio <= 2 and beside.returncode == 0
        complete = re.search(r"complete max ms\s+([\d.]+)", output)
        if complete:
            good &= float(complete.group(1)) < 2000
        misses += not good
        result[name] = {"p99_us": worst, "ratio": ratio, "background": output}
        suffix = f", complete {float(complete.group(1)):.0f} ms (under 2000)" if complete else ""
        print(f"p99 of 4 KiB PUTs {alone / 1000:.2f} ms alone, {worst / 1000:.2f} ms beside a {name}: {ratio:.2f} (at most 2){suffix} {mark(good)}", flush=True)
        if beside.returncode:
            print(output)
    return result, misses


def tars():
    """DEDUP_TARS: a folder of real releases, in the order of their names. Without it, invented ones."""
    folder = os.environ.get("DEDUP_TARS")
    if folder:
        return (path.read_bytes() for path in sorted(pathlib.Path(folder).glob("*.tar")))
    return releases(pathlib.Path(os.environ.get("DEDUP_TREE", pathlib.Path.home() / ".cargo/registry/src")))


def releases(root, count=6):
    """Tars of a tree as it would be after each of `count` releases: a twelfth of the files are edited each time. Their
    members have one time and one folder, as `tar --mtime` makes them; docs/chunks.md tells what others come to."""
    chance = random.Random(20261121)
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and not p.is_symlink() and p.stat().st_size < MIB}
    for release in range(count):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(f"release/{name}")
                info.size, info.mtime = len(data), 1_700_000_000
                tar.addfile(info, io.BytesIO(data))
        yield out.getvalue()
        for name in chance.sample(sorted(files), max(1, len(files) // 12)):
            lines = files[name].splitlines(keepends=True)
            lines.insert(chance.randrange(len(lines) + 1), b"// changed in release %d\n" % (release + 1))
            files[name] = b"".join(lines)


def store_bytes(server):
    """Unique and stored bytes by the gateway's own metrics."""
    text = urllib.request.urlopen(server.admin + "/metrics", timeout=10).read().decode()
    values = {}
    for line in text.splitlines():
        found = re.match(r"cairn_store_(logical|unique|stored)_bytes ([\d.e+]+)$", line)
        if found:
            values[found.group(1)] = float(found.group(2))
    return values


def dedup(bench, server):
    """Six releases of a source tree, then one file twice."""
    client = Client(server.endpoint, "benchroot", "benchroot-secret-key")
    client.request("PUT", "/dedup")
    logical, result, misses = 0, {}, 0
    before = store_bytes(server)
    for number, tar in enumerate(tars()):
        client.request("PUT", f"/dedup/release-{number}.tar", tar)
        logical += len(tar)
    time.sleep(2)
    after = store_bytes(server)
    unique = after.get("unique", 0) - before.get("unique", 0)
    good = 0 < unique <= logical / 1.6
    misses += not good
    print(f"six releases: {logical / MIB:.0f} MiB, unique {unique / MIB:.0f} MiB: 1/{logical / unique if unique else 0:.2f} (at most 1/1.60) {mark(good)}")
    blob = random.Random(1).randbytes(64 * MIB)
    client.request("PUT", "/dedup/first", blob)
    before = store_bytes(server)
    client.request("PUT", "/dedup/second", blob)
    time.sleep(2)
    added = store_bytes(server).get("stored", 0) - before.get("stored", 0)
    good = added < len(blob) / 1000
    misses += not good
    print(f"the same 64 MiB again: {added:.0f} B more stored ({100 * added / len(blob):.3f} %, under 0.1 %) {mark(good)}")
    return {"logical": logical, "unique": unique, "again_stored": added}, misses


SCENARIOS = {"listing": listing, "connections": connections, "isolation": isolation, "dedup": dedup}
