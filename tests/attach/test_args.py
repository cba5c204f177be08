"""Mount arguments and what becomes of them on a connection: sizes, caches, the size of it all."""

import errno
from collections.abc import Callable
from typing import Any

import pytest

import puffs
from puffs.attach.fuse.abi import FOPEN_DIRECT_IO, KSTATFS, Opcode
from puffs.kernel.args import REQUEST_MAX, KernelFlag, MountArgs
from tests.attach.fake_kernel import ROOT, FakeKernel
from tests.attach.toy import Toy, Unchecked

pytestmark = pytest.mark.usefixtures("loop")


class Trusted(Unchecked):
    name_ttl = 7.0
    attr_ttl = 7.0
    negative_ttl = 7.0


class Few(Trusted):
    """Has no use for opens."""

    def operations(self) -> dict[str, Callable[..., Any]]:
        unwanted = ("open", "close", "inactive", "create")
        return {name: op for name, op in super().operations().items() if name not in unwanted}


@pytest.mark.parametrize(
    ("asked", "max_write", "pages"),
    [
        (0, 1 << 20, 256),
        (REQUEST_MAX, 1 << 20, 256),
        (1, 4096, 1),
        (8192, 4096, 1),
        (9000, 4904, 2),
    ],
)
def test_the_size_of_requests_is_what_was_granted(asked: int, max_write: int, pages: int) -> None:
    with FakeKernel(Toy(), args=MountArgs("toy", request_size=asked)) as kernel:
        out = kernel.init_out
        assert (out["max_write"], out["max_pages"]) == (max_write, pages)
        assert kernel.session.facts()["max_write"] == max_write == kernel.mount.args.payload


@pytest.mark.statement("2.5")
@pytest.mark.parametrize("server", [Trusted, Few])
@pytest.mark.parametrize(("flags", "direct"), [(0, False), (KernelFlag.NOCACHE_PAGE, True)])
def test_without_a_page_cache_every_file_is_read_directly(
    server: type[Toy], flags: int, direct: bool
) -> None:
    with FakeKernel(server(), args=MountArgs("toy", flags=flags)) as kernel:
        reply = kernel.ask(Opcode.OPEN, kernel.lookup(b"file"), flags=0)
        if reply.error:
            assert (server, reply.error, direct) == (Few, errno.ENOSYS, False)
            return
        assert bool(reply.fields(Opcode.OPEN)["open_flags"] & FOPEN_DIRECT_IO) == direct


@pytest.mark.statement("2.5")
def test_hints_of_the_file_server_are_kept_beside() -> None:
    toy = Toy()
    with FakeKernel(toy, args=MountArgs("toy", flags=KernelFlag.NOCACHE_PAGE)) as kernel:
        toy.reply["open"] = puffs.Open("file", nonseekable=True)
        reply = kernel.ask(Opcode.OPEN, kernel.lookup(b"file"), flags=0)
        assert reply.fields(Opcode.OPEN)["open_flags"] == FOPEN_DIRECT_IO | 1 << 2


@pytest.mark.statement("2.5")
@pytest.mark.parametrize(("flags", "seconds"), [(0, 7), (KernelFlag.NOCACHE_NAME, 0)])
def test_without_a_name_cache_no_name_is_trusted(flags: int, seconds: int) -> None:
    server = Trusted()
    with FakeKernel(server, args=MountArgs("toy", flags=flags)) as kernel:
        entry = kernel.entry(Opcode.LOOKUP, ROOT, b"file")
        assert (entry["entry_valid"], entry["attr_valid"]) == (seconds, 7)
        absent = kernel.ask(Opcode.LOOKUP, ROOT, b"nothing")
        assert absent.error == (0 if seconds else errno.ENOENT)
        server.reply["lookup"] = puffs.Entry(server.names[100, "file"], name_ttl=30, attr_ttl=30)
        entry = kernel.entry(Opcode.LOOKUP, ROOT, b"file")
        assert (entry["entry_valid"], entry["attr_valid"]) == (30 if seconds else 0, 30)


@pytest.mark.statement("V3")
def test_the_size_of_the_file_system_on_the_wire() -> None:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        toy.reply["statvfs"] = puffs.StatVfs(bsize=512, blocks=80, bfree=40, files=9)
        told = KSTATFS.unpack(kernel.exchange(Opcode.STATFS, ROOT, b"").body)
        assert (told["bsize"], told["frsize"], told["blocks"], told["bfree"]) == (4096, 512, 80, 40)
        toy.refuse["statvfs"] = OSError(errno.ESTALE, "gone")
        reply = kernel.exchange(Opcode.STATFS, ROOT, b"")
        assert (reply.error, reply.body) == (errno.ESTALE, b"")
        assert kernel.mount.sizes.failed(errno.ESTALE).statvfs.blocks == 80


@pytest.mark.parametrize(("for_all", "seconds"), [(False, 0), (True, 7)])
def test_names_are_trusted_only_where_every_caller_finds_the_same(
    for_all: bool, seconds: int
) -> None:
    class Decides(Toy):
        name_ttl: float = 7
        attr_ttl: float = 7
        negative_ttl: float = 7
        names_for_all = for_all

    with FakeKernel(Decides()) as kernel:
        entry = kernel.entry(Opcode.LOOKUP, ROOT, b"file")
        assert (entry["entry_valid"], entry["attr_valid"]) == (seconds, 7)
        absent = kernel.ask(Opcode.LOOKUP, ROOT, b"nothing")
        assert absent.error == (0 if for_all else errno.ENOENT)
