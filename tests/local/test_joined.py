"""A mount used in process beside the kernel's: operations run where those of the kernel do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.others import SOON, comes_true

pytestmark = pytest.mark.fuse

SCRIPT = """
import asyncio, sys, threading
import puffs
from puffs.fs.mem import MemFS

class Checked(MemFS):
    threads = set()
    def write(self, node, offset, data, file):
        self.threads.add(threading.get_ident())
        return super().write(node, offset, data, file)
    def create(self, dir, name, attr, flags, cred):
        assert puffs.caller().gid == cred.gid
        return super().create(dir, name, attr, flags, cred)
    def unmounted(self):
        print("unmounted", flush=True)

class Async(Checked):
    async def getattr(self, node, file=None):
        await asyncio.sleep(0)
        return super().getattr(node, file)
    async def read(self, node, offset, size, file):
        await asyncio.sleep(0)
        print("read by", puffs.caller().gid, flush=True)
        return super().read(node, offset, size, file)
    async def readdir(self, dir, offset, file):
        for name in super().readdir(dir, offset, file):
            yield name

fs = {"sync": Checked, "async": Async}[sys.argv[1]]()
mount = puffs.mount(fs, sys.argv[2])
vfs = puffs.local(mount, cred=puffs.Cred(0, 7, groups=()))
vfs.makedirs("/a/b")
vfs.write_text("/a/b/inside", "from inside")
print("ready", flush=True)
for line in sys.stdin:
    command, _, rest = line.strip().partition(" ")
    if command == "read":
        print(vfs.read_text(rest), flush=True)
    elif command == "list":
        print(sorted(vfs.listdir(rest)), len(Checked.threads), flush=True)
    elif command == "known":
        print(len(mount.vnodes), flush=True)
    elif command == "leave":
        vfs.close()
        print("left", vfs.closed, mount.status.name, flush=True)
    elif command == "unmount":
        mount.unmount()
        print(vfs.closed, mount.status.name, flush=True)
        break
"""


class Child:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.line()


@contextmanager
def serving(kind: str, point: Path) -> Iterator[Child]:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, kind, str(point)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            child = Child(process)
            assert child.line() == "ready"
            yield child
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=20)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_both_see_the_same_files(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as child:
        assert (tmp_path / "a/b/inside").read_text() == "from inside"
        if kind == "async":
            assert child.line() == f"read by {os.getegid()}"
        (tmp_path / "outside").write_text("from outside")
        if kind == "async":
            assert child.ask("read /outside") == "read by 7"
            child.line()
            assert child.line() == "from outside"
        else:
            assert child.ask("read /outside") == "from outside"
        assert child.ask("list /") == "['a', 'outside'] 1", "one thread has run all writes"
        assert child.ask("unmount") == "unmounted"
        assert child.line() == "True DYING"


def test_leaving_does_not_unmount(tmp_path: Path) -> None:
    with serving("sync", tmp_path) as child:
        assert child.ask("leave") == "left True RUNNING"
        assert os.listdir(tmp_path) == ["a"]


def test_what_is_unmounted_elsewhere_goes_on_in_process(tmp_path: Path) -> None:
    with serving("sync", tmp_path) as child:
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=20)
        assert child.ask("read /a/b/inside") == "from inside"
        assert child.ask("unmount") == "unmounted"
        assert child.line() == "True DYING"


def test_what_only_the_kernel_knew_is_forgotten_when_it_is_unmounted(tmp_path: Path) -> None:
    with serving("sync", tmp_path) as child:
        assert child.ask("known") == "1", "what was used in process alone has been given back"
        assert (tmp_path / "a/b/inside").stat().st_size == 11
        assert child.ask("known") == "4"
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=20)
        assert comes_true(lambda: child.ask("known") == "1", SOON)
        assert child.ask("read /a/b/inside") == "from inside"
