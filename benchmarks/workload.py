"""The trees that are unpacked, read, copied and cloned: the same bytes on every machine."""

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

PARTS = 4  # one process works through all of them, or each of four through one
FILES = 2600
SIZE = 100_000_000
CLONED_FILES = 652
CLONED_SIZE = 25_000_000
FILES_IN_A_DIRECTORY = 13
WHEN = 1_700_000_000  # the time of every file and every commit

GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "puffs",
    "GIT_AUTHOR_EMAIL": "puffs@localhost",
    "GIT_AUTHOR_DATE": f"{WHEN} +0000",
    "GIT_COMMITTER_NAME": "puffs",
    "GIT_COMMITTER_EMAIL": "puffs@localhost",
    "GIT_COMMITTER_DATE": f"{WHEN} +0000",
}


def files(part: int, count: int, size: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` names and contents, `size` bytes in all: many small files, few large ones."""
    numbers = random.Random(part)
    weights = [numbers.lognormvariate(0, 1.3) for _ in range(count)]
    total = sum(weights)
    for index, weight in enumerate(weights):
        directory = index // FILES_IN_A_DIRECTORY
        name = f"{directory // 8:02}/{directory % 8:02}/file-{index:04}.dat"
        yield name, numbers.randbytes(round(weight / total * size))


def make_tar(target: Path, part: int) -> None:
    """Write one part of the tree as an archive, in which all is below `tree`."""
    content = list(files(part, FILES // PARTS, SIZE // PARTS))
    directories = {parent for name, _ in content for parent in Path("tree", name).parents}
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for directory in sorted(map(str, directories - {Path(".")})):
            member = tarfile.TarInfo(directory)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, WHEN
            archive.addfile(member)
        for name, data in content:
            member = tarfile.TarInfo(f"tree/{name}")
            member.size, member.mode, member.mtime = len(data), 0o644, WHEN
            archive.addfile(member, io.BytesIO(data))


def make_repository(target: Path, part: int) -> None:
    """Make a bare git repository with one commit in one pack, in which nothing is compressed.

    What git does for itself, compress and hash, is no file server's doing: the less the better.
    """
    stream = bytearray()
    stream += f"commit refs/heads/main\ncommitter puffs <puffs@localhost> {WHEN} +0000\n".encode()
    stream += b"data 0\n"
    for name, data in files(PARTS + part, CLONED_FILES // PARTS, CLONED_SIZE // PARTS):
        stream += f"M 100644 inline {name}\ndata {len(data)}\n".encode() + data + b"\n"
    environment = os.environ | GIT_ENVIRONMENT
    git = ["git", "-c", "core.compression=0", "-C", str(target)]
    init = ["git", "init", "-q", "--bare", "--initial-branch=main", str(target)]
    subprocess.run(init, env=environment, check=True)
    subprocess.run([*git, "fast-import", "--quiet"], env=environment, check=True, input=stream)


def make(directory: Path) -> list[str]:
    """Make everything in `directory`; return the names of the parts: NAME.tar and NAME.git."""
    names = [f"part{number}" for number in range(PARTS)]
    for number, name in enumerate(names):
        make_tar(directory / f"{name}.tar", number)
        make_repository(directory / f"{name}.git", number)
    return names
