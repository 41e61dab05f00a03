"""Four bodies of data that a seed and the files of this machine make: the same twice on one machine.

Each has steps in the order of time; a step is a folder of one or more files. What is text or program in them is real,
since invented words compress like nothing that anybody stores.
"""

import io
import pathlib
import random
import shutil
import sqlite3
import sysconfig
import tarfile

KIB, MIB = 1 << 10, 1 << 20
SEED = 20261122
BLOCK = 4 * KIB


def real_files(folders, suffixes, limit):
    """Files of this machine, by name, up to `limit` bytes in all."""
    found, total = {}, 0
    for folder in folders:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if suffixes and path.suffix not in suffixes or path.is_symlink() or not path.is_file() or "site-packages" in path.parts:
                continue
            if not 0 < path.stat().st_size < MIB:
                continue
            data = path.read_bytes()
            if total + len(data) > limit:
                return found
            found[path.relative_to("/").as_posix()] = data
            total += len(data)
    return found


def sources(limit):
    return real_files([sysconfig.get_path("stdlib"), "/usr/share/perl", "/usr/include"], {".py", ".pm", ".pod", ".h"}, limit)


def edited(chance, data, others):
    """A file after a change: one to four places where lines are written, dropped or put in from another file."""
    lines = data.splitlines(keepends=True)
    for _ in range(chance.randint(1, 4)):
        at, count = chance.randrange(len(lines) + 1), chance.randint(1, 6)
        other = others[chance.randrange(len(others))].splitlines(keepends=True)
        start = chance.randrange(len(other))
        lines[at : at + chance.choice([0, 0, count])] = other[start : start + chance.choice([0, count, 2 * count])]
    return b"".join(lines) or data


def release_trees(count, limit):
    """The files of `count` releases: from one to the next a twelfth of them is edited, one in a hundred goes, one in a
    hundred is new, one in two hundred moves."""
    chance = random.Random(SEED)
    files = sources(limit)
    bodies = list(files.values())
    for number in range(count):
        yield number, files
        files = dict(files)
        names = sorted(files)
        for name in chance.sample(names, len(names) // 12):
            files[name] = edited(chance, files[name], bodies)
        for name in chance.sample(names, len(names) // 100):
            files[f"new/{number}/{name}"] = edited(chance, edited(chance, files[name], bodies), bodies)
        for name in chance.sample(names, len(names) // 100):
            del files[name]
        for name in chance.sample(sorted(files), len(names) // 200):
            files[f"moved/{number}/{name}"] = files.pop(name)


def releases_as_files(folder, scale):
    """Twelve releases of a source tree, each unpacked in a folder of its own."""
    for number, files in release_trees(12, int(24 * MIB * scale)):
        for name, data in files.items():
            path = folder / f"{number:02}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def releases_as_tars(folder, scale):
    """The same releases as tars, made as docs/chunks.md advises: names in order, one time, one folder name."""
    for number, files in release_trees(12, int(24 * MIB * scale)):
        (folder / f"{number:02}").mkdir()
        with tarfile.open(folder / f"{number:02}" / "release.tar", "w") as tar:
            for name in sorted(files):
                info = tarfile.TarInfo(f"release/{name}")
                info.size, info.mtime = len(files[name]), 1_700_000_000
                tar.addfile(info, io.BytesIO(files[name]))


def sqlite_dumps(folder, scale):
    """24 nightly `.dump`s of a database of 50,000 orders, of which 1 % are changed each day, anywhere."""
    chance = random.Random(SEED)
    words = sorted({word for data in sources(4 * MIB).values() for word in data.decode("utf-8", "replace").split() if word.isalpha()})
    rows = int(50_000 * scale)

    def text(least, most):
        return " ".join(chance.choices(words, k=chance.randint(least, most)))

    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, email TEXT, city TEXT, amount REAL, state TEXT, changed TEXT, note TEXT)")
    for number in range(rows):
        name = text(2, 2)
        row = (number, name, name.replace(" ", ".") + "@example.org", text(1, 2), chance.randrange(10**6) / 100, "new", f"2026-01-{1 + number % 28:02}", text(5, 30))
        database.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    for night in range(24):
        (folder / f"{night:02}").mkdir()
        with open(folder / f"{night:02}" / "dump.sql", "w") as out:
            out.writelines(line + "\n" for line in database.iterdump())
        for number in chance.sample(range(rows), rows // 100):
            change = (chance.randrange(10**6) / 100, chance.choice(["paid", "sent", "back"]), f"2026-02-{night + 1:02}", text(5, 30), number)
            database.execute("UPDATE orders SET amount = ?, state = ?, changed = ?, note = ? WHERE id = ?", change)


def disk_images(folder, scale):
    """Eight snapshots of a disk of 48 MiB: programs, libraries and text in blocks of 4 KiB, a fifth free. From one to the next
    24 runs of 1 to 256 blocks change places, and 64 blocks are written."""
    chance = random.Random(SEED)
    blocks = int(48 * MIB * scale) // BLOCK
    programs = real_files(["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/bin", "/usr/sbin"], None, blocks * BLOCK // 2)
    files = list(programs.values()) + list(sources(blocks * BLOCK // 2).values())
    chance.shuffle(files)
    image = bytearray()
    for data in files:
        image += data + bytes(-len(data) % BLOCK)
        if chance.random() < 0.2:
            image += bytes(chance.randint(1, 64) * BLOCK)
    image = image[: blocks * BLOCK]
    image += bytes(blocks * BLOCK - len(image))
    for snapshot in range(8):
        (folder / f"{snapshot:02}").mkdir()
        (folder / f"{snapshot:02}" / "disk.img").write_bytes(image)
        for _ in range(12):
            size = int(2 ** chance.uniform(0, 8)) * BLOCK
            first, second = (chance.randrange((len(image) - size) // BLOCK) * BLOCK for _ in range(2))
            if abs(first - second) >= size:
                image[first : first + size], image[second : second + size] = image[second : second + size], image[first : first + size]
        for _ in range(64):
            at, data = chance.randrange(blocks) * BLOCK, files[chance.randrange(len(files))][:BLOCK]
            image[at : at + BLOCK] = data + bytes(BLOCK - len(data))


def media(folder, scale):
    """Some 200 MiB of files of 256 KiB to 16 MiB that do not compress. Later one in ten comes a second time, and one in ten with a
    longer title in front."""
    chance = random.Random(SEED)
    films = []

    def write(step, name, title, data):
        body = b"\x00\x00\x00\x18ftypisom" + title.encode().ljust(256 + len(title) % 7, b"\x00") + data
        (folder / step).mkdir(exist_ok=True)
        (folder / step / name).write_bytes(body)

    while sum(map(len, films)) < 180 * MIB * scale:
        films.append(chance.randbytes(int(2 ** chance.uniform(18, 24))))
    for number, data in enumerate(films):
        write("0 first", f"{number:04}.mp4", f"film {number}", data)
        kind = chance.random()
        if kind < 0.1:
            write("1 later", f"{number:04} (copy).mp4", f"film {number}", data)
        elif kind < 0.2:
            write("1 later", f"{number:04} (named).mp4", f"film {number}, the one with the longer title", data)


CORPORA = {
    "releases, tars": releases_as_tars,
    "releases, files": releases_as_files,
    "SQLite dumps": sqlite_dumps,
    "disk images": disk_images,
    "media": media,
}


def make(name, folder, scale):
    """Makes the corpus in `folder`, anew; its files and bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    CORPORA[name](folder, scale)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)
