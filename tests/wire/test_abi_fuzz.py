"""Round trips of every message; fuzzed bytes into the decoders: only ProtocolError comes out."""

import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from puffs.attach.fuse import abi
from puffs.attach.fuse.abi import Layout, Opcode, ProtocolError

RANGES = {"Q": (0, 2**64 - 1), "I": (0, 2**32 - 1), "H": (0, 2**16 - 1)}
RANGES |= {"q": (-(2**63), 2**63 - 1), "i": (-(2**31), 2**31 - 1)}

names = st.binary(max_size=20).map(lambda name: name.replace(b"\0", b"."))


def values(layout: Layout) -> st.SearchStrategy[dict[str, Any]]:
    """Any values for the members of a struct."""

    def one(code: str) -> st.SearchStrategy[int] | st.SearchStrategy[bytes]:
        if code.endswith("s"):
            size = int(code[:-1])
            return st.binary(min_size=size, max_size=size)
        return st.integers(*RANGES[code])

    return st.fixed_dictionaries({name: one(layout.fields[name][1]) for name in layout.zeros})


@st.composite
def requests(draw: st.DrawFn) -> tuple[abi.Request, bytes, bool]:
    """A well-formed request, its body, and whether SETXATTR has its long form."""
    message = abi.MESSAGES[draw(st.sampled_from(Opcode))]
    setxattr_ext = draw(st.booleans())
    layout = message.request
    if message.opcode is Opcode.SETXATTR and not setxattr_ext:
        layout = abi.COMPAT_SETXATTR_IN
    if message.opcode is Opcode.INIT and draw(st.booleans()):
        layout = abi.COMPAT_INIT_IN
    fields = draw(values(layout)) if layout else {}
    texts = draw(st.lists(names, min_size=message.names, max_size=message.names))
    data = b""
    if message.data:
        count = fields[message.counted_by] = draw(st.integers(0, 20))
        size = count * message.unit
        data = draw(st.binary(min_size=size, max_size=size))
    body = layout.pack(**fields) if layout else b""
    body += b"".join(text + b"\0" for text in texts) + data
    return abi.Request(message.opcode, fields, texts, memoryview(data)), body, setxattr_ext


@pytest.mark.parametrize("name", abi.LAYOUTS)
@settings(max_examples=20)
@given(st.data())
def test_what_was_packed_is_unpacked(name: str, data: st.DataObject) -> None:
    layout = abi.LAYOUTS[name]
    members = data.draw(values(layout))
    packed = layout.pack(**members)
    assert len(packed) == layout.size
    assert layout.unpack(packed) == members
    assert layout.struct.pack(*layout.struct.unpack(packed)) == packed


@given(requests())
def test_well_formed_request(case: tuple[abi.Request, bytes, bool]) -> None:
    request, body, setxattr_ext = case
    assert abi.decode(request.opcode, memoryview(body), setxattr_ext=setxattr_ext) == request


@given(requests(), st.data())
def test_request_of_another_length(
    case: tuple[abi.Request, bytes, bool], data: st.DataObject
) -> None:
    request, body, setxattr_ext = case
    longer = body + data.draw(st.binary(min_size=1, max_size=9))
    with pytest.raises(ProtocolError):
        abi.decode(request.opcode, memoryview(longer), setxattr_ext=setxattr_ext)
    shorter = body[: data.draw(st.integers(0, max(0, len(body) - 1)))]
    # Cut after 16 bytes, an INIT is one of an older kernel.
    if body and not (request.opcode is Opcode.INIT and len(shorter) == abi.COMPAT_INIT_IN_SIZE):
        with pytest.raises(ProtocolError):
            abi.decode(request.opcode, memoryview(shorter), setxattr_ext=setxattr_ext)


@pytest.mark.parametrize("opcode", Opcode)
@given(body=st.binary(max_size=200), setxattr_ext=st.booleans())
def test_any_bytes_as_a_request(opcode: Opcode, body: bytes, setxattr_ext: bool) -> None:
    try:
        request = abi.decode(opcode, memoryview(body), setxattr_ext=setxattr_ext)
    except ProtocolError:
        return
    assert request.opcode is opcode
    assert body.endswith(request.data)
    assert sum(len(name) + 1 for name in request.names) + len(request.data) <= len(body)


@given(st.integers(), st.binary(max_size=100))
def test_any_opcode(opcode: int, body: bytes) -> None:
    try:
        request = abi.decode(opcode, memoryview(body))
    except ProtocolError:
        return
    assert request.opcode == opcode


def record(kind: int, content: bytes, size: int | None = None) -> bytes:
    content += bytes(-len(content) % 8)
    return struct.pack("=II", 8 + len(content) if size is None else size, kind) + content


def contexts_record(contexts: list[tuple[bytes, bytes]]) -> bytes:
    content = b""
    for name, value in contexts:
        content += struct.pack("=II", len(value), 0) + name + b"\0" + value
        content += bytes(-len(content) % 8)
    return record(len(contexts), content)


def groups_record(gids: list[int]) -> bytes:
    return record(abi.FUSE_EXT_GROUPS, struct.pack(f"={1 + len(gids)}I", len(gids), *gids))


contexts = st.lists(st.tuples(names, st.binary(max_size=30)), max_size=abi.MAX_NR_SECCTX)
gids = st.lists(st.integers(0, 2**32 - 1), max_size=40)


@given(st.binary(max_size=30), contexts, gids)
def test_extensions_after_any_request(
    before: bytes, contexts: list[tuple[bytes, bytes]], gids: list[int]
) -> None:
    extensions = contexts_record(contexts) + groups_record(gids)
    found = abi.parse_extensions(memoryview(before + extensions), len(extensions) // 8)
    assert found == (contexts, gids)
    if before:
        with pytest.raises(ProtocolError):
            abi.parse_extensions(memoryview(extensions), len(extensions) // 8 + 1)


damaged = st.builds(
    record,
    st.integers(0, 34) | st.integers(0, 2**32 - 1),
    st.binary(max_size=60),
    st.none() | st.integers(0, 80) | st.integers(0, 2**32 - 1),
)


@given(st.lists(damaged, max_size=4).map(b"".join) | st.binary(max_size=200), st.integers(0, 70000))
@example(struct.pack("=II", 8, 0) * 65535, 65535)
def test_any_bytes_as_extensions(body: bytes, units: int) -> None:
    for extlen_units in (units, len(body) // 8):
        try:
            found = abi.parse_extensions(memoryview(body), extlen_units)
        except ProtocolError:
            continue
        # What is found has been there: it takes no more room than the bytes did.
        room = sum(len(name) + 1 + len(value) for name, value in found.secctx)
        assert room + 4 * len(found.groups) <= 8 * extlen_units


@given(st.data())
def test_extensions_with_one_changed_byte(data: st.DataObject) -> None:
    extensions = bytearray(contexts_record(data.draw(contexts)) + groups_record(data.draw(gids)))
    extensions[data.draw(st.integers(0, len(extensions) - 1))] = data.draw(st.integers(0, 255))
    try:
        abi.parse_extensions(memoryview(extensions), len(extensions) // 8)
    except ProtocolError:
        pass


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), names.filter(bool), st.integers(0, 15))))
def test_directory_is_read_back(entries: list[tuple[int, bytes, int]]) -> None:
    listing = b"".join(
        abi.pack_dirent(ino, off, name, kind) for off, (ino, name, kind) in enumerate(entries, 1)
    )
    at = 0
    found = []
    while at < len(listing):
        head = abi.DIRENT.unpack(listing, at)
        name_at = at + abi.DIRENT.size
        found.append((head["ino"], listing[name_at : name_at + head["namelen"]], head["type"]))
        assert head["off"] == len(found)
        at += abi.dirent_size(head["namelen"])
    assert at == len(listing)
    assert found == entries


@given(names, st.lists(st.integers(0, 2**64 - 1)), st.integers(0, 2**64 - 1))
def test_notifications_tell_their_lengths(name: bytes, nodeids: list[int], node: int) -> None:
    messages = {
        abi.Notify.POLL: abi.notify_poll(node),
        abi.Notify.INVAL_INODE: abi.notify_inval_inode(node, 0, -1),
        abi.Notify.INVAL_ENTRY: abi.notify_inval_entry(node, name),
        abi.Notify.STORE: abi.notify_store(node, 4096, name),
        abi.Notify.RETRIEVE: abi.notify_retrieve(2, node, 0, 4096),
        abi.Notify.DELETE: abi.notify_delete(1, node, name),
        abi.Notify.RESEND: abi.notify_resend(),
        abi.Notify.INC_EPOCH: abi.notify_inc_epoch(),
        abi.Notify.PRUNE: abi.notify_prune(nodeids),
    }
    assert set(messages) == set(abi.Notify)
    for code, message in messages.items():
        assert abi.OUT_HEADER.unpack(message) == {"len": len(message), "error": code, "unique": 0}
    assert abi.NOTIFY_INVAL_ENTRY_OUT.unpack(messages[abi.Notify.INVAL_ENTRY], 16) == {
        "parent": node,
        "namelen": len(name),
        "flags": 0,
    }
    assert messages[abi.Notify.INVAL_ENTRY][32:] == name + b"\0"
    assert messages[abi.Notify.DELETE][40:] == name + b"\0"
    assert messages[abi.Notify.STORE][40:] == name
    assert struct.unpack(f"={len(nodeids)}Q", messages[abi.Notify.PRUNE][32:]) == tuple(nodeids)
