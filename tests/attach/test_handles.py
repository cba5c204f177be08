"""What the kernel asks when a file handle is opened: LOOKUP of "." and ".."."""

from errno import EIO, ENOENT, EPROTO, ESTALE
from typing import Any, ClassVar

import pytest

import puffs
from puffs.attach.fuse.abi import Opcode
from tests.attach.fake_kernel import ROOT, FakeKernel
from tests.attach.toy import ROOT as ROOT_COOKIE
from tests.attach.toy import Toy

pytestmark = pytest.mark.usefixtures("loop")

GENERATION = 3
OWN_IDS = 1 << 63


class Numbered(Toy):
    """A file's number is its cookie; `number` is that of all of them, if it is not 0."""

    number: ClassVar[int] = 0

    def fileid(self, node: int) -> tuple[int, int]:
        return self.number or node, GENERATION


class Exported(Numbered):
    """Its files can be found again, and know their directory."""

    def vget(self, ino: int) -> int | puffs.Entry:
        if ino not in self.attrs:
            raise OSError(ESTALE)
        return ino

    def lookup(self, dir: int, name: str, cred: puffs.Cred) -> int:
        if name == "..":
            return next(above for (above, _), node in self.names.items() if node == dir)
        return super().lookup(dir, name, cred)


def forgotten(kernel: FakeKernel, name: bytes) -> int:
    """The node id of a file that the kernel knew and has forgotten."""
    nodeid = kernel.lookup(name)
    kernel.tell(Opcode.FORGET, nodeid, nlookup=1)
    assert kernel.mount.vnodes.by_nodeid.get(nodeid) is None
    return nodeid


def asked(server: Toy, operation: str) -> list[Any]:
    """What an operation was asked for."""
    return [args[0] for args in server.called(operation)]


def error_of(kernel: FakeKernel, nodeid: int, name: bytes = b".") -> int:
    return kernel.ask(Opcode.LOOKUP, nodeid, name).error


@pytest.mark.statement("O2")
def test_a_forgotten_file_is_found_by_its_number() -> None:
    server = Exported()
    with FakeKernel(server) as kernel:
        nodeid = forgotten(kernel, b"file")
        entry = kernel.entry(Opcode.LOOKUP, nodeid, b".")
        assert asked(server, "vget") == [nodeid]
        assert (entry["nodeid"], entry["generation"]) == (nodeid, GENERATION)
        assert entry["attr_mode"] == server.attrs[nodeid].mode
        # It is counted once, as any other.
        assert len(kernel.mount.vnodes) == 2
        kernel.tell(Opcode.FORGET, nodeid, nlookup=1)
        assert len(kernel.mount.vnodes) == 1
        assert asked(server, "reclaim") == [nodeid, nodeid]


def test_the_attributes_may_come_with_it() -> None:
    class WithAttr(Exported):
        def vget(self, ino: int) -> puffs.Entry:
            return puffs.Entry(ino, self.attrs[ino], attr_ttl=7)

    server = WithAttr()
    with FakeKernel(server) as kernel:
        nodeid = forgotten(kernel, b"file")
        server.calls.clear()
        assert kernel.entry(Opcode.LOOKUP, nodeid, b".")["attr_valid"] == 7
        assert server.called("getattr") == []


def test_a_file_that_is_known_is_not_asked_for() -> None:
    server = Exported()
    with FakeKernel(server) as kernel:
        nodeid = kernel.lookup(b"file")
        assert kernel.entry(Opcode.LOOKUP, nodeid, b".")["nodeid"] == nodeid
        assert kernel.entry(Opcode.LOOKUP, ROOT, b".")["nodeid"] == ROOT
        assert kernel.entry(Opcode.LOOKUP, ROOT, b"..")["nodeid"] == ROOT
        assert server.called("vget") == []
        assert [args[1] for args in server.called("lookup")] == ["file"]
        kernel.tell(Opcode.FORGET, nodeid, nlookup=2)
        assert len(kernel.mount.vnodes) == 1


@pytest.mark.parametrize("error", [ESTALE, ENOENT, EIO])
def test_what_is_gone_is_not_found(error: int) -> None:
    server = Exported()
    with FakeKernel(server) as kernel:
        nodeid = forgotten(kernel, b"file")
        server.refuse["vget"] = OSError(error, "gone")
        assert error_of(kernel, nodeid) == error  # of ENOENT the kernel makes ESTALE
        assert len(kernel.mount.vnodes) == 1


@pytest.mark.parametrize("server", [Toy, Numbered])
def test_without_vget_what_was_forgotten_is_stale(server: type[Toy]) -> None:
    toy = server()
    with FakeKernel(toy) as kernel:
        nodeid = forgotten(kernel, b"dir")
        assert error_of(kernel, nodeid) == ESTALE
        assert error_of(kernel, nodeid, b"..") == ESTALE
        assert error_of(kernel, kernel.lookup(b"dir"), b"..") == ESTALE
        assert [args[1] for args in toy.called("lookup")] == ["dir", "dir"]


def test_without_fileid_a_number_means_nothing_to_the_file_server() -> None:
    class OnlyVget(Toy):
        def vget(self, ino: int) -> int:
            return ROOT_COOKIE + 1

    server = OnlyVget()
    with FakeKernel(server) as kernel:
        assert error_of(kernel, forgotten(kernel, b"dir")) == ESTALE
        assert server.called("vget") == []


def test_a_file_whose_number_was_taken_is_stale_once_it_is_forgotten() -> None:
    class Same(Exported):
        number = 50

    server = Same()
    with FakeKernel(server) as kernel:
        first, second = kernel.lookup(b"file"), kernel.lookup(b"dir")
        assert first == 50
        assert second >= OWN_IDS
        kernel.tell(Opcode.FORGET, second, nlookup=1)
        assert error_of(kernel, second) == ESTALE
        assert server.called("vget") == [], "the number was never the file server's"


def test_no_other_file_is_opened_under_the_number() -> None:
    class Same(Exported):
        number = 50

        def vget(self, ino: int) -> int:
            return self.names[ROOT_COOKIE, "dir"]

    server = Same()
    with FakeKernel(server) as kernel:
        first, second = kernel.lookup(b"file"), kernel.lookup(b"dir")
        kernel.tell(Opcode.FORGET, first, nlookup=1)
        # The host knows the file that is found, by another number.
        assert error_of(kernel, first) == ESTALE
        vnode = kernel.mount.vnodes.by_nodeid[second]
        assert vnode.lookups == 1, "nothing was counted"


def test_a_wrong_file_is_the_file_servers_fault() -> None:
    class Liar(Exported):
        def vget(self, ino: int) -> int:
            return ino + 1

    server = Liar()
    with FakeKernel(server) as kernel:
        nodeid = forgotten(kernel, b"file")
        assert error_of(kernel, nodeid) == EPROTO
        assert [args[0] for args in server.called("error")] == ["LOOKUP"]
        assert len(kernel.mount.vnodes) == 1


@pytest.mark.parametrize("operation", ["vget", "lookup"])
@pytest.mark.parametrize("reply", [None, []])
def test_what_is_no_cookie_is_a_fault(operation: str, reply: object) -> None:
    server = Exported()
    with FakeKernel(server) as kernel:
        nodeid = kernel.lookup(b"dir")
        server.reply[operation] = reply
        if operation == "vget":
            kernel.tell(Opcode.FORGET, nodeid, nlookup=1)
        assert error_of(kernel, nodeid, b"." if operation == "vget" else b"..") == EPROTO
        assert len(server.called("error")) == 1


def test_no_directory_is_in_itself() -> None:
    server = Exported()
    with FakeKernel(server) as kernel:
        nodeid = kernel.lookup(b"dir")
        server.reply["lookup"] = nodeid
        assert error_of(kernel, nodeid, b"..") == EPROTO
        assert [args[0] for args in server.called("error")] == ["LOOKUP"]


def test_the_directory_that_one_is_in_is_asked_for() -> None:
    server = Exported()
    with FakeKernel(server) as kernel:
        outer = kernel.entry(Opcode.MKDIR, ROOT, b"outer", mode=0o755)["nodeid"]
        inner = kernel.entry(Opcode.MKDIR, outer, b"inner", mode=0o755)["nodeid"]
        assert kernel.entry(Opcode.LOOKUP, inner, b"..")["nodeid"] == outer
        above = kernel.entry(Opcode.LOOKUP, outer, b"..")
        assert (above["nodeid"], above["generation"]) == (ROOT, 0)
        assert kernel.mount.vnodes.by_nodeid[outer].lookups == 2
        # Where it was found by name stays what is shown of it.
        assert kernel.mount.vnodes.by_nodeid[inner].path() == "/outer/inner"
        assert kernel.mount.vnodes.by_nodeid[outer].path() == "/outer"


def test_what_was_found_by_its_number_is_shown_by_it() -> None:
    with FakeKernel(Exported()) as kernel:
        nodeid = forgotten(kernel, b"dir")
        kernel.entry(Opcode.LOOKUP, nodeid, b".")
        vnode = kernel.mount.vnodes.by_nodeid[nodeid]
        assert vnode.path() == f"<node {nodeid}>"
        child = kernel.entry(Opcode.MKDIR, nodeid, b"sub", mode=0o755)["nodeid"]
        assert kernel.mount.vnodes.by_nodeid[child].path() == f"<node {nodeid}>/sub"
        kernel.lookup(b"dir")
        assert kernel.mount.vnodes.by_nodeid[child].path() == "/dir/sub"
