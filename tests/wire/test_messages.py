"""Whole messages: bytes that a kernel sent, and bytes that it takes."""

import errno
import struct
import sys

import pytest

from puffs.attach.fuse import abi
from puffs.attach.fuse.abi import Opcode, ProtocolError

little_endian_only = pytest.mark.skipif(
    sys.byteorder != "little", reason="the bytes were recorded on a little-endian machine"
)

# Requests as Linux 6.18 (x86-64) sent them: the whole message in hex, its node, the members that
# are not 0, the names, the data.
REQUESTS: dict[str, tuple[str, int, dict[str, int], list[bytes], bytes]] = {
    "INIT": (
        "680000001a000000020000000000000000000000000000000000000000000000"
        "0000000000000000070000002d00000000000200fbffff73fd05000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000",
        0,
        {
            "major": 7,
            "minor": 45,
            "max_readahead": 0x20000,
            "flags": 0x73FFFFFB,
            "flags2": 0x5FD,
        },
        [],
        b"",
    ),
    "LOOKUP": (
        "2a000000010000000e000000000000000100000000000000000000000000000002130000000000006600",
        1,
        {},
        [b"f"],
        b"",
    ),
    "STATFS": (
        "28000000110000001200000000000000010000000000000000000000000000000213000000000000",
        1,
        {},
        [],
        b"",
    ),
    "READ": (
        "500000000f0000001a000000000000000c000000000000000000000000000000"
        "02130000000000004d0000000000000000000000000000000010000000000000"
        "00000000000000000280000000000000",
        12,
        {"fh": 77, "size": 4096, "flags": 0o100002},
        [],
        b"",
    ),
    "SETATTR": (
        "800000000400000034000000000000000c000000000000000000000000000000"
        "0213000000000000300000000000000000000000000000000000000000000000"
        "000000000000000040e201000000000000000000000000000000000000000000"
        "795f072f05000000000000000000000000000000000000000000000000000000",
        12,
        {
            "valid": abi.FATTR_ATIME | abi.FATTR_MTIME,
            "atime": 123456,
            "atimensec": 789012345,
            "mtimensec": 5,
        },
        [],
        b"",
    ),
    "WRITE": (
        "5c0000001000000024000000000000000c000000000000000000000000000000"
        "02130000000000004d0000000000000003000000000000000c00000000000000"
        "0000000000000000028000000000000068656c6c6f206b65726e656c",
        12,
        {"fh": 77, "offset": 3, "size": 12, "flags": 0o100002},
        [],
        b"hello kernel",
    ),
    "SETXATTR": (
        "450000001500000042000000000000000c000000000000000000000000000000"
        "021300000000000006000000000000000000000000000000757365722e610076"
        "616c756521",
        12,
        {"size": 6},
        [b"user.a"],
        b"value!",
    ),
    "RENAME2": (
        "3c0000002d000000720000000000000001000000000000000000000000000000"
        "0213000000000000010000000000000001000000000000006600 6800",
        1,
        {"newdir": 1, "flags": 1},
        [b"f", b"h"],
        b"",
    ),
    "SETLKW": (
        "5800000021000000a2000000000000000c000000000000000000000000000000"
        "02130000000000004d000000000000009755df6dbe8ebb570800000000000000"
        "0e0000000000000001000000021300000000000000000000",
        12,
        {
            "fh": 77,
            "owner": 0x57BB8EBE6DDF5597,
            "lk_start": 8,
            "lk_end": 14,
            "lk_type": 1,
            "lk_pid": 4866,
        },
        [],
        b"",
    ),
    "INTERRUPT": (
        "3000000024000000a30000000000000000000000000000000000000000000000"
        "0000000000000000a200000000000000",
        0,
        {"unique": 0xA2},
        [],
        b"",
    ),
    "IOCTL": (
        "5000000027000000a6000000000000000c000000000000000000000000000000"
        "02130000000000004d0000000000000000000000017708c0d08a67ccfe7f0000"
        "08000000080000003132333435363738",
        12,
        {"fh": 77, "cmd": 0xC0087701, "arg": 0x7FFECC678AD0, "in_size": 8, "out_size": 8},
        [],
        b"12345678",
    ),
    "NOTIFY_REPLY": (
        "82000000290000002b020000000000000c000000000000000000000000000000"
        "d912000000000000000000000000000000000000000000003200000000000000"
        "0000000000000000000000000000000072727268656c6c6f206b65726e656c72"
        "7272727272727272727272727272727272727272727272727272727272727272"
        "7272",
        12,
        {"size": 50},
        [],
        b"rrrhello kernel" + b"r" * 35,
    ),
    "STATX": (
        "4000000034000000b60000000000000011000000000000000000000000000000"
        "041300000000000000000000000000000000000000000000 00000000ff0f0000",
        17,
        {"sx_mask": 0xFFF},
        [],
        b"",
    ),
    "COPY_FILE_RANGE_64": (
        "60000000350000009a000000000000000c000000000000000000000000000000"
        "02130000000000004d0000000000000001000000000000000d00000000000000"
        "4e00000000000000020000000000000005000000000000000000000000000000",
        12,
        {"fh_in": 77, "off_in": 1, "nodeid_out": 13, "fh_out": 78, "off_out": 2, "len": 5},
        [],
        b"",
    ),
}

# Likewise requests that create something, with extensions: an empty list of security contexts (no
# security module was there) and the one group that the directory shares with the caller.
CREATIONS: dict[str, tuple[str, dict[str, int], list[bytes]]] = {
    "CREATE": (
        "5400000023000000520000000000000001000000000000000000000000000000"
        "0213000003000000c2800000a081000012000000000000006e65770008000000"
        "00000000100000002000000001000000d2040000",
        {"flags": 0o100302, "mode": 0o100640, "umask": 0o22},
        [b"new"],
    ),
    "MKNOD": (
        "52000000080000005a0000000000000001000000000000000000000000000000"
        "0213000003000000802100000301000012000000000000006e00080000000000"
        "0000100000002000000001000000d2040000",
        {"mode": 0o20600, "rdev": 0x103, "umask": 0o22},
        [b"n"],
    ),
    "SYMLINK": (
        "4d000000060000005e0000000000000001000000000000000000000000000000"
        "0213000003000000736c32007461726765742f78000800000000000000100000"
        "002000000001000000d2040000",
        {},
        [b"sl2", b"target/x"],
    ),
    "TMPFILE": (
        "5200000033000000a80000000000000001000000000000000000000000000000"
        "0213000003000000028041008081000012000000000000002f00080000000000"
        "0000100000002000000001000000d2040000",
        {"flags": 0o20300002, "mode": 0o100600, "umask": 0o22},
        [b"/"],
    ),
}


def not_zero(fields: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in fields.items() if value}


@little_endian_only
@pytest.mark.parametrize("name", REQUESTS)
def test_request_of_a_kernel(name: str) -> None:
    text, nodeid, fields, names, data = REQUESTS[name]
    message = memoryview(bytes.fromhex(text))
    header = abi.IN_HEADER.unpack(message)
    assert header["len"] == len(message)
    assert header["opcode"] == Opcode[name]
    assert header["nodeid"] == nodeid
    assert header["total_extlen"] == 0
    request = abi.decode(header["opcode"], message[abi.IN_HEADER.size :])
    assert request.opcode is Opcode[name]
    assert not_zero(request.fields) == fields
    assert request.names == names
    assert request.data == data


@little_endian_only
@pytest.mark.parametrize("name", CREATIONS)
def test_request_with_extensions_of_a_kernel(name: str) -> None:
    text, fields, names = CREATIONS[name]
    message = memoryview(bytes.fromhex(text))
    header = abi.IN_HEADER.unpack(message)
    assert header["len"] == len(message)
    assert header["total_extlen"] == 3
    assert abi.parse_extensions(message, 3) == abi.Extensions(secctx=[], groups=[1234])
    request = abi.decode(header["opcode"], message[abi.IN_HEADER.size : -24])
    assert (request.opcode, not_zero(request.fields), request.names) == (
        Opcode[name],
        fields,
        names,
    )
    with pytest.raises(ProtocolError, match=f"^{name} has 24 bytes after its names, not 0$"):
        abi.decode(header["opcode"], message[abi.IN_HEADER.size :])


def test_batch_forget() -> None:
    body = struct.pack("=IIQQQQ", 2, 0, 11, 1, 12, 24)
    request = abi.decode(Opcode.BATCH_FORGET, memoryview(body))
    assert request.fields["count"] == 2
    assert list(abi.FORGET_ONE.struct.iter_unpack(request.data)) == [(11, 1), (12, 24)]
    with pytest.raises(ProtocolError, match=r"32 bytes after its struct, not 48 \(by its count\)"):
        abi.decode(Opcode.BATCH_FORGET, memoryview(struct.pack("=I", 3) + body[4:]))


def test_init_of_a_kernel_before_7_36() -> None:
    body = memoryview(struct.pack("=IIII", 7, 31, 0x20000, abi.FUSE_ASYNC_READ))
    request = abi.decode(Opcode.INIT, body)
    assert request.fields == {
        "major": 7,
        "minor": 31,
        "max_readahead": 0x20000,
        "flags": abi.FUSE_ASYNC_READ,
    }


def test_setxattr_without_its_extension() -> None:
    body = memoryview(struct.pack("=II", 3, 1) + b"user.b\0abc")
    request = abi.decode(Opcode.SETXATTR, body, setxattr_ext=False)
    assert request.fields == {"size": 3, "flags": 1}
    assert request.names == [b"user.b"]
    assert bytes(request.data) == b"abc"
    with pytest.raises(ProtocolError):
        abi.decode(Opcode.SETXATTR, body, setxattr_ext=True)


@pytest.mark.parametrize(
    ("opcode", "body", "words"),
    [
        (7, b"", "opcode 7 is none of FUSE 7.45"),
        (Opcode.READ, bytes(39), "READ is cut short: fuse_read_in takes 40 bytes, 39 are there"),
        (Opcode.READ, bytes(41), "READ has 1 bytes after its struct, not 0"),
        (Opcode.LOOKUP, b"name", "LOOKUP is cut short: string 1 has no NUL at its end"),
        (Opcode.SYMLINK, b"name\0to", "SYMLINK is cut short: string 2 has no NUL at its end"),
        (Opcode.UNLINK, b"a\0b\0", "UNLINK has 2 bytes after its names, not 0"),
        (Opcode.WRITE, bytes(44), "WRITE has 4 bytes after its struct, not 0 (by its size)"),
        (Opcode.INIT, bytes(20), "INIT is cut short: fuse_init_in takes 64 bytes, 20 are there"),
    ],
)
def test_words_for_a_malformed_request(opcode: int, body: bytes, words: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        abi.decode(opcode, memoryview(body))
    assert str(caught.value) == words
    assert isinstance(caught.value, ValueError)


def secctx(*contexts: tuple[bytes, bytes]) -> bytes:
    """Security contexts as the kernel's get_security_context() lays them out: each padded to 8."""
    content = b""
    for name, value in contexts:
        context = struct.pack("=II", len(value), 0) + name + b"\0" + value
        content += context + bytes(-len(context) % 8)
    return struct.pack("=II", 8 + len(content), len(contexts)) + content


def groups(*gids: int) -> bytes:
    content = struct.pack(f"={1 + len(gids)}I", len(gids), *gids)
    content += bytes(-len(content) % 8)
    return struct.pack("=II", 8 + len(content), abi.FUSE_EXT_GROUPS) + content


def test_extensions() -> None:
    contexts = [(b"security.selinux", b"system_u:object_r:tmp_t:s0\0"), (b"security.x", b"")]
    extensions = secctx(*contexts) + groups(10, 20)
    body = memoryview(b"any name\0" + extensions)
    assert abi.parse_extensions(body, len(extensions) // 8) == (contexts, [10, 20])
    assert abi.parse_extensions(body, 0) == ([], [])
    # A record may tell its length without the padding; the next one is at a multiple of 8 anyway.
    unpadded = struct.pack("=IIIII4x", 20, abi.FUSE_EXT_GROUPS, 2, 7, 8) + groups(9)
    assert abi.parse_extensions(memoryview(unpadded), 5).groups == [7, 8, 9]
    assert abi.parse_extensions(memoryview(groups()), 2).groups == []


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        (struct.pack("=II", 7, 0), "extension of 7 bytes where 8 are left"),
        (struct.pack("=II", 16, 0), "extension of 16 bytes where 8 are left"),
        (struct.pack("=II", 8, 33), "extension of unknown type 33"),
        (struct.pack("=II", 8, 1), "security context 1 of 1 is cut short in its name"),
        (
            struct.pack("=IIII8s", 24, 1, 0, 0, b"nonulnul"),
            "security context 1 of 1 is cut short in its name",
        ),
        (
            struct.pack("=IIII8s", 24, 1, 7, 0, b"n"),
            "security context 1 of 1 has a value of 7 bytes where 6 are left",
        ),
        (
            struct.pack("=IIII8s", 24, 2, 6, 0, b"n"),
            "security context 2 of 2 is cut short in its name",
        ),
        (struct.pack("=IIQQQ", 32, 1, 0, 0, 0), "8 bytes after 1 security contexts"),
        (struct.pack("=IIQ", 16, 0, 0), "8 bytes after 0 security contexts"),
        (struct.pack("=II", 8, 32), "group extension of 0 bytes has no room for its count"),
        (struct.pack("=IIII", 16, 32, 2, 0), "group extension has 8 bytes for 2 groups"),
        (struct.pack("=IIII", 13, 32, 1, 0), "group extension has 5 bytes for 1 groups"),
        (struct.pack("=IIIIQ", 24, 32, 1, 0, 0), "group extension has 16 bytes for 1 groups"),
        (
            struct.pack("=IIII", 16, 32, 2**32 - 1, 0),
            "group extension has 8 bytes for 4294967295 groups",
        ),
    ],
)
def test_words_for_malformed_extensions(extensions: bytes, words: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        abi.parse_extensions(memoryview(extensions), len(extensions) // 8)
    assert str(caught.value) == words


def test_extensions_longer_than_the_request() -> None:
    with pytest.raises(ProtocolError, match="extensions of 16 bytes in a request that has 15"):
        abi.parse_extensions(memoryview(bytes(15)), 2)


@little_endian_only
def test_directory_records() -> None:
    assert abi.pack_dirent(5, 1, b"zz.txt", 8).hex(" ", 8) == (
        "0500000000000000 0100000000000000 0600000008000000 7a7a2e7478740000"
    )
    assert abi.pack_dirent(1, 2**64 - 1, b"12345678", 4).hex(" ", 8) == (
        "0100000000000000 ffffffffffffffff 0800000004000000 3132333435363738"
    )


def test_sizes_of_directory_records() -> None:
    entry = abi.ENTRY_OUT.pack(nodeid=3)
    for length in range(1, 300):
        record = abi.pack_dirent(1, 2, b"n" * length, 8)
        assert len(record) == abi.dirent_size(length)
        assert len(entry + record) == abi.direntplus_size(length)
        assert len(record) % 8 == 0
        assert record[24:].rstrip(b"\0") == b"n" * length
    assert (abi.dirent_size(1), abi.dirent_size(8), abi.dirent_size(9)) == (32, 32, 40)


# Each of these was written to Linux 6.18, which took it (INVAL_INODE: of a node that it knew).
@little_endian_only
@pytest.mark.parametrize(
    ("message", "text"),
    [
        (abi.notify_poll(1), "18000000 01000000 0000000000000000 0100000000000000"),
        (
            abi.notify_inval_inode(12, 0, 0),
            "28000000 02000000 0000000000000000 0c00000000000000 0000000000000000 0000000000000000",
        ),
        (
            abi.notify_inval_inode(12, -1, -2),
            "28000000 02000000 0000000000000000 0c00000000000000 ffffffffffffffff feffffffffffffff",
        ),
        (
            abi.notify_inval_entry(1, b"f", abi.FUSE_EXPIRE_ONLY),
            "22000000 03000000 0000000000000000 0100000000000000 01000000 01000000 6600",
        ),
        (
            abi.notify_store(12, 0, b"stored"),
            "2e000000 04000000 0000000000000000 0c00000000000000 0000000000000000 06000000 00000000"
            "73746f726564",
        ),
        (
            abi.notify_retrieve(555, 12, 0, 50),
            "30000000 05000000 0000000000000000 2b02000000000000 0c00000000000000 0000000000000000"
            "32000000 00000000",
        ),
        (
            abi.notify_delete(1, 12, b"f"),
            "2a000000 06000000 0000000000000000 0100000000000000 0c00000000000000 01000000 00000000"
            "6600",
        ),
        (abi.notify_resend(), "10000000 07000000 0000000000000000"),
        (abi.notify_inc_epoch(), "10000000 08000000 0000000000000000"),
        (
            abi.notify_prune([12, 13]),
            "30000000 09000000 0000000000000000 02000000 00000000 0000000000000000"
            "0c00000000000000 0d00000000000000",
        ),
        (
            abi.notify_prune([]),
            "20000000 09000000 0000000000000000 00000000 00000000 0000000000000000",
        ),
    ],
)
def test_notification(message: bytes, text: str) -> None:
    assert message == bytes.fromhex(text)


@little_endian_only
def test_replies() -> None:
    error = abi.OUT_HEADER.struct.pack(16, -errno.ENOENT, 0x8000000000000022)
    assert error == bytes.fromhex("10000000 feffffff 2200000000000080")
    opened = abi.OPEN_OUT.struct.pack(77, abi.FOPEN_KEEP_CACHE, -1)
    assert opened == bytes.fromhex("4d00000000000000 02000000 ffffffff")
    attributes = abi.ATTR_OUT.pack(attr_valid=1, attr_ino=12, attr_mode=0o100644, attr_blksize=4096)
    assert attributes[:24] == bytes.fromhex("0100000000000000 00000000 00000000 0c00000000000000")
    assert attributes[76:80] == bytes.fromhex("a4810000")
    assert attributes[96:] == bytes.fromhex("00100000 00000000")
