"""File handles that a file server makes itself: `fhtovp` and `vptofh`."""

from errno import E2BIG, EINVAL, EIO, EOPNOTSUPP, EPROTO, ESTALE
from typing import Any

import pytest

import puffs
from puffs.kernel import handles
from puffs.kernel.args import FHSIZE_MAX
from puffs.kernel.handles import HandleTooLong
from puffs.kernel.vnode import OWN_IDS
from puffs.kernel.vnops import Vnops
from puffs.server.errors import ProtocolFault
from tests.kernel.little import CRED, ROOT, Little, fails, mounted, vnops_of

DYNAMIC = puffs.FHFLAG_DYNAMIC
SIZE = 8


class Handles(Little):
    """A handle is the cookie, in `SIZE` bytes."""

    def nodetofh(self, node: int) -> bytes:
        return node.to_bytes(SIZE, "big")

    def fhtonode(self, fid: bytes) -> int:
        node = int.from_bytes(fid, "big")
        if node not in self.nodes:
            raise OSError(ESTALE, "gone")
        return node


def with_file(fhsize: int = SIZE, fhflags: int = 0) -> tuple[Vnops, Handles, int]:
    """A mount with the file "f", which the host knows nothing of; the cookie of the file."""
    server = Handles()
    vnops = vnops_of(server, fhsize=fhsize, fhflags=fhflags)
    cookie = server.mknod(ROOT, "f", puffs.Attr(0o100644), CRED)
    server.log.clear()
    return vnops, server, cookie


def faults(server: Little) -> list[tuple[Any, ...]]:
    """What the file server was told of its bad replies: kind and errno."""
    return [call[1:3] for call in server.asked("error")]


# ---------------------------------------------------------------------------------------- fhtovp


@pytest.mark.statement("F1", "H1")
def test_without_a_size_there_are_no_handles() -> None:
    vnops, server, _ = with_file(fhsize=0)
    with fails(EOPNOTSUPP):
        vnops.fhtovp(b"")
    for room in (None, 0, SIZE):
        with fails(EOPNOTSUPP):
            vnops.vptofh(vnops.mount.root(), room)
    assert server.log == []


@pytest.mark.statement("F1", "H1")
def test_a_file_server_without_the_operations_has_no_handles() -> None:
    vnops = vnops_of(Handles("nodetofh", "fhtonode"), fhsize=SIZE)
    with fails(EOPNOTSUPP):
        vnops.fhtovp(bytes(SIZE))
    with fails(EOPNOTSUPP):
        vnops.vptofh(vnops.mount.root())


@pytest.mark.statement("F2")
@pytest.mark.parametrize("flags", [0, DYNAMIC])
@pytest.mark.parametrize("length", [SIZE + 1, SIZE + 4, FHSIZE_MAX, 1 << 16])
def test_a_handle_that_is_too_long_is_none(flags: int, length: int) -> None:
    vnops, server, _ = with_file(fhflags=flags)
    with fails(EINVAL):
        vnops.fhtovp(bytes(length))
    assert server.log == [], "the file server is not asked"


@pytest.mark.statement("F3")
@pytest.mark.parametrize("length", [0, 1, 3, SIZE - 1])
def test_a_shorter_handle_is_one_only_where_lengths_differ(length: int) -> None:
    vnops, server, _ = with_file()
    with fails(EINVAL):
        vnops.fhtovp(bytes(length))
    assert server.log == []
    vnops, server, _ = with_file(fhflags=DYNAMIC)
    with fails(ESTALE):
        vnops.fhtovp(bytes(length))
    assert server.asked("fhtonode") == [("fhtonode", bytes(length))]


@pytest.mark.statement("F4")
def test_the_file_server_is_given_the_bytes() -> None:
    vnops, server, cookie = with_file()
    found = vnops.fhtovp(cookie.to_bytes(SIZE, "big"))
    assert server.log[0] == ("fhtonode", cookie.to_bytes(SIZE, "big"))
    assert found.vnode.cookie == cookie
    assert found.attr.mode == 0o100644


@pytest.mark.statement("F4")
@pytest.mark.parametrize(("error", "code"), [(OSError(ESTALE), ESTALE), (KeyError(), EIO)])
def test_what_the_file_server_says_to_a_handle_is_the_callers_error(
    error: Exception, code: int
) -> None:
    vnops, server, _ = with_file()
    server.says["fhtonode"] = error
    with fails(code):
        vnops.fhtovp(bytes(SIZE))
    assert len(vnops.mount.vnodes) == 1, "the root alone"


@pytest.mark.statement("F5")
def test_a_file_that_is_known_keeps_its_vnode() -> None:
    vnops, server, cookie = with_file()
    known = vnops.lookup(vnops.mount.root(), "f").vnode
    found = vnops.fhtovp(cookie.to_bytes(SIZE, "big"))
    assert found.vnode is known
    assert known.lookups == 2
    vnops.forget(known, 2)
    assert server.asked("reclaim") == [("reclaim", cookie)]
    assert vnops.mount.vnodes.find(cookie) is None


@pytest.mark.statement("F5")
def test_a_file_that_is_not_known_gets_a_vnode() -> None:
    vnops, _, cookie = with_file()
    vnode = handles.fhtovp(vnops.mount, cookie.to_bytes(SIZE, "big"))
    assert vnops.mount.vnodes.find(cookie) is vnode
    assert vnode.lookups == 1


@pytest.mark.statement("F6")
def test_a_handle_of_the_root_leads_to_the_root() -> None:
    vnops, _, _ = with_file()
    root = vnops.mount.root()
    assert vnops.fhtovp(vnops.vptofh(root)).vnode is root
    vnops.forget(root)
    assert vnops.mount.vnodes.find(ROOT) is root


@pytest.mark.statement("F6")
@pytest.mark.parametrize("reply", [None, [], {}])
def test_what_is_no_cookie_is_a_fault(reply: object) -> None:
    vnops, server, _ = with_file()
    server.says["fhtonode"] = reply
    with fails(EPROTO):
        vnops.fhtovp(bytes(SIZE))
    assert faults(server) == [("MAKENODE", EINVAL)]
    assert len(vnops.mount.vnodes) == 1


@pytest.mark.statement("F6")
@pytest.mark.parametrize("reply", [OSError(EIO), puffs.Attr(0o644), "no attributes"])
def test_a_file_whose_attributes_cannot_be_had_is_not_counted(reply: object) -> None:
    vnops, server, cookie = with_file()
    server.says["getattr"] = reply
    with pytest.raises(OSError) as caught:
        vnops.fhtovp(cookie.to_bytes(SIZE, "big"))
    assert caught.value.errno in (EIO, EPROTO)
    assert vnops.mount.vnodes.find(cookie) is None
    assert server.asked("reclaim") == [("reclaim", cookie)]


# ---------------------------------------------------------------------------------------- vptofh


@pytest.mark.statement("H2")
@pytest.mark.parametrize("room", [0, 1, 3, SIZE - 1, -1])
def test_where_all_handles_have_one_length_nobody_is_asked_for_it(room: int) -> None:
    vnops, server, _ = with_file()
    with pytest.raises(HandleTooLong) as caught:
        vnops.vptofh(vnops.mount.root(), room)
    assert (caught.value.errno, caught.value.size) == (E2BIG, SIZE)
    assert server.log == []


@pytest.mark.statement("H3")
@pytest.mark.parametrize("flags", [0, DYNAMIC])
@pytest.mark.parametrize("room", [None, SIZE, SIZE + 1, FHSIZE_MAX])
def test_the_file_server_is_given_the_node(flags: int, room: int | None) -> None:
    vnops, server, cookie = with_file(fhflags=flags)
    vnode = vnops.lookup(vnops.mount.root(), "f").vnode
    server.log.clear()
    assert vnops.vptofh(vnode, room) == cookie.to_bytes(SIZE, "big")
    assert server.log == [("nodetofh", cookie)]
    assert vnode.lookups == 1, "a handle keeps nothing alive"


@pytest.mark.statement("H4")
@pytest.mark.parametrize(("error", "code"), [(OSError(E2BIG), E2BIG), (OSError(EIO), EIO)])
def test_what_the_file_server_says_instead_of_a_handle_is_the_callers_error(
    error: OSError, code: int
) -> None:
    vnops, server, _ = with_file()
    server.says["nodetofh"] = error
    with fails(code):
        vnops.vptofh(vnops.mount.root(), SIZE)


@pytest.mark.statement("H5")
@pytest.mark.parametrize("flags", [0, DYNAMIC])
@pytest.mark.parametrize("length", [SIZE + 1, FHSIZE_MAX, FHSIZE_MAX + 1, 1 << 20])
def test_a_handle_longer_than_promised_is_the_file_servers_fault(flags: int, length: int) -> None:
    vnops, server, _ = with_file(fhflags=flags)
    server.says["nodetofh"] = bytes(length)
    with fails(EPROTO):
        vnops.vptofh(vnops.mount.root())
    assert faults(server) == [("VPTOFH", E2BIG)]
    assert str(length) in server.asked("error")[0][3]


@pytest.mark.statement("H5")
@pytest.mark.parametrize("reply", [None, 7, "x" * SIZE])
def test_what_is_no_bytes_is_no_handle(reply: object) -> None:
    vnops, server, _ = with_file(fhflags=DYNAMIC)
    server.says["nodetofh"] = reply
    with fails(EPROTO):
        vnops.vptofh(vnops.mount.root())
    assert faults(server) == [("VPTOFH", EINVAL)]


@pytest.mark.statement("H6")
@pytest.mark.parametrize("length", [1, 5, SIZE])
@pytest.mark.parametrize("missing", [1, 5, 100])
def test_a_handle_that_does_not_fit_tells_its_length(length: int, missing: int) -> None:
    vnops, server, _ = with_file(fhflags=DYNAMIC)
    server.says["nodetofh"] = bytes(length)
    with pytest.raises(HandleTooLong, match=f"{length} bytes") as caught:
        vnops.vptofh(vnops.mount.root(), length - missing)
    assert (caught.value.errno, caught.value.size) == (E2BIG, length)
    assert vnops.vptofh(vnops.mount.root(), caught.value.size) == bytes(length)
    assert faults(server) == []


@pytest.mark.statement("H7")
def test_the_length_of_a_handle_is_its_own_only_where_lengths_differ() -> None:
    vnops, server, _ = with_file(fhsize=FHSIZE_MAX, fhflags=DYNAMIC)
    for length in (0, 1, SIZE, FHSIZE_MAX):
        server.says["nodetofh"] = bytes(length)
        assert len(vnops.vptofh(vnops.mount.root())) == length
    vnops, _, _ = with_file()
    assert len(vnops.vptofh(vnops.mount.root())) == SIZE


@pytest.mark.statement("H7", "H8")
@pytest.mark.parametrize("length", [0, 1, SIZE - 1])
def test_a_handle_shorter_than_promised_is_the_file_servers_fault(length: int) -> None:
    """Rather than a tail of whatever was in the caller's memory."""
    vnops, server, _ = with_file()
    server.says["nodetofh"] = bytes(length)
    with fails(EPROTO):
        vnops.vptofh(vnops.mount.root())
    assert faults(server) == [("VPTOFH", EINVAL)]
    assert "FHFLAG_DYNAMIC" in server.asked("error")[0][3]


@pytest.mark.statement("H8")
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_a_handle_is_a_copy(make: Any) -> None:
    vnops, server, _ = with_file()
    kept = bytearray(b"12345678")
    server.says["nodetofh"] = kept if make is bytearray else make(kept)
    handle = vnops.vptofh(vnops.mount.root())
    kept[:] = bytes(SIZE)
    assert handle == b"12345678"


@pytest.mark.statement("H9")
def test_the_size_of_a_handle_can_be_asked_for() -> None:
    """Of one whose length is its own the file server is asked."""
    vnops, server, _ = with_file(fhflags=DYNAMIC)
    server.says["nodetofh"] = b"abc"
    with pytest.raises(HandleTooLong) as caught:
        handles.vptofh(vnops.mount, vnops.mount.root(), 0)
    assert caught.value.size == 3
    assert server.asked("nodetofh") == [("nodetofh", ROOT)]


@pytest.mark.statement("M10", "M12", "M13", "M14")
def test_the_class_says_what_its_handles_are() -> None:
    class Long(Handles):
        fhsize = 29
        fhflags = puffs.FHFLAG_NFSV3

    mount, _ = mounted(Long())
    assert (mount.args.fhsize, mount.args.fhflags) == (29, puffs.FHFLAG_NFSV3)
    for flags, size in ((puffs.FHFLAG_NFSV2, 29), (puffs.FHFLAG_NFSV3, 61), (0, FHSIZE_MAX + 1)):
        Long.fhflags, Long.fhsize = flags, size
        with fails(EINVAL):
            mounted(Long())


# ------------------------------------------------------------------------- by number (VFS_VGET)


class Numbered(Little):
    """A file's number is its cookie; `taken` are cookies that all have the number 2."""

    taken: tuple[int, ...] = ()

    def fileid(self, node: int) -> tuple[int, int]:
        return (2 if node in self.taken else node), 7


@pytest.mark.statement("O2")
def test_a_file_is_regained_by_its_number() -> None:
    vnodes = mounted(Numbered())[0].vnodes
    vnode = vnodes.regain(5, 5)
    assert (vnode.nodeid, vnode.generation, vnode.lookups) == (5, 7, 1)
    assert vnodes.regain(5, 5) is vnode
    assert vnode.lookups == 2


def test_a_file_whose_number_is_taken_is_not_found_by_it() -> None:
    server = Numbered()
    server.taken = (3, 4)
    vnodes = mounted(server)[0].vnodes
    assert vnodes.adopt(3).nodeid == 2
    assert vnodes.adopt(4).nodeid >= OWN_IDS
    vnodes.forget(2, 1)
    with fails(ESTALE):
        vnodes.regain(4, 2)
    found = vnodes.find(4)
    assert found is not None
    assert found.lookups == 1
    assert vnodes.find(3) is None


def test_a_file_of_another_number_is_a_fault() -> None:
    vnodes = mounted(Numbered())[0].vnodes
    with pytest.raises(ProtocolFault, match=r"vget\(5\).*fileid is 6"):
        vnodes.regain(6, 5)
    assert vnodes.find(6) is None


def test_numbers_of_the_kernel_half_are_taken() -> None:
    class Beyond(Numbered):
        def fileid(self, node: int) -> tuple[int, int]:
            return OWN_IDS + node, 7

    vnodes = mounted(Beyond())[0].vnodes
    first, second = vnodes.adopt(5), vnodes.adopt(6)
    assert {first.nodeid, second.nodeid} == {OWN_IDS, OWN_IDS + 1}
    assert first.ino == OWN_IDS + 5, "what is shown stays the file server's"
    assert first.generation != 7


def test_the_root_has_generation_0() -> None:
    assert mounted(Numbered())[0].root().generation == 0
    assert mounted(Little())[0].root().generation == 0
