"""The tables of the protocol against what it says, and against the machine's own header."""

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from puffs.attach.fuse import abi
from tests.wire.layouts import CONSTANTS, NOTIFY_CODES, OPCODES, SHAPES, STRUCTS, members, since

STRUCT_CODES = {"u64": "Q", "s64": "q", "u32": "I", "s32": "i", "u16": "H"}


def value_of(name: str) -> int:
    """What the tables have for a constant of the header, a struct (its size) or a struct.member."""
    if name in OPCODES:
        return abi.Opcode[name.removeprefix("FUSE_")]
    if name in NOTIFY_CODES:
        return abi.Notify[name.removeprefix("FUSE_NOTIFY_")]
    if name in CONSTANTS:
        value = getattr(abi, name, None) or getattr(abi, name.removeprefix("FUSE_"))
        assert type(value) is int, "IntFlag and the like are too slow for what is done per request"
        return value
    layout, _, path = name.partition(".")
    if not path:
        return abi.LAYOUTS[layout].size
    return abi.LAYOUTS[layout].fields[path.replace(".", "_")][0]


def test_every_struct_of_the_protocol_has_a_layout() -> None:
    assert abi.LAYOUTS.keys() == STRUCTS.keys()
    for name, layout in abi.LAYOUTS.items():
        constant = name.removeprefix("fuse_").upper()
        assert getattr(abi, constant) is layout, f"{name} is not called {constant}"
        assert layout.name == name


@pytest.mark.parametrize("name", STRUCTS)
def test_layout(name: str) -> None:
    layout = abi.LAYOUTS[name]
    assert layout.size == layout.struct.size == STRUCTS[name][0]
    expected = {}
    for path, kind, offset in members(name):
        base, _, count = kind.partition("[")
        if base == "char":
            code = f"{count.rstrip(']')}s"
        elif count:
            code = f"{int(count.rstrip(']')) * int(base[1:]) // 8}x"
        else:
            code = STRUCT_CODES[base]
        expected[path.replace(".", "_")] = (offset, code)
    assert dict(layout.fields) == expected
    assert layout.struct.format == "=" + "".join(code for _, code in expected.values())


def test_pack_and_unpack_by_name() -> None:
    packed = abi.LK_OUT.pack(lk_start=5, lk_end=2**63 - 1, lk_pid=17)
    assert packed == struct.pack("=QQII", 5, 2**63 - 1, 0, 17)
    assert abi.LK_OUT.unpack(b"??" + packed, 2) == {
        "lk_start": 5,
        "lk_end": 2**63 - 1,
        "lk_type": 0,
        "lk_pid": 17,
    }
    assert abi.INIT_OUT.pack(major=7) == b"".join([struct.pack("=I", 7), bytes(60)])
    assert "unused" not in abi.INIT_OUT.unpack(b"\xff" * 64)
    assert abi.URING_REQ_HEADER.pack(op_in=b"op") == bytes(128) + b"op" + bytes(158)
    with pytest.raises(TypeError, match="fuse_open_out has no member flags, fn"):
        abi.OPEN_OUT.pack(fn=1, flags=2)


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant(name: str) -> None:
    assert value_of(name) == CONSTANTS[name]


def test_nothing_is_in_the_tables_that_the_protocol_does_not_have() -> None:
    # COMPAT_INIT_IN_SIZE has no name in the header; the others are versions of this module.
    own = {"MIN_MINOR_VERSION", "KERNEL_MINOR_VERSION", "COMPAT_INIT_IN_SIZE"}
    for name, value in vars(abi).items():
        if name.isupper() and isinstance(value, int) and name not in own:
            assert name in CONSTANTS or f"FUSE_{name}" in CONSTANTS, name
    assert len(abi.Opcode) == len(OPCODES)
    assert len(abi.Notify) == len(NOTIFY_CODES)
    assert (abi.KERNEL_VERSION, abi.MIN_MINOR_VERSION, abi.KERNEL_MINOR_VERSION) == (7, 31, 45)


def test_init_flags_have_names() -> None:
    assert list(abi.INIT_FLAGS.values()) == [1 << bit for bit in range(43)]
    for name, value in abi.INIT_FLAGS.items():
        assert getattr(abi, name) == value
    assert abi.init_flag_names(0) == []
    assert abi.init_flag_names(abi.FUSE_ASYNC_READ | abi.FUSE_OVER_IO_URING | 1 << 43) == [
        "FUSE_ASYNC_READ",
        "FUSE_OVER_IO_URING",
        "bit 43",
    ]


def test_every_operation_has_a_message() -> None:
    assert list(abi.MESSAGES) == list(abi.Opcode)
    assert [shape.split()[0] for shape in SHAPES.strip().splitlines()] == [*abi.Opcode.__members__]
    for opcode, message in abi.MESSAGES.items():
        assert message.opcode is opcode
        prefix = "CUSE_" if opcode is abi.Opcode.CUSE_INIT else "FUSE_"
        assert message.since == since(prefix + opcode.name) or message.since <= 31


@pytest.mark.parametrize("shape", SHAPES.strip().splitlines())
def test_message(shape: str) -> None:
    name, *words = shape.split()
    message = abi.MESSAGES[abi.Opcode[name]]
    request = [message.request.name] if message.request else []
    request += ["name"] * message.names
    if message.data:
        assert message.request is not None
        assert message.counted_by in message.request.fields
        record = words[len(request)].partition("[")[0]
        assert message.unit == (1 if record == "data" else abi.LAYOUTS[record].size)
        request.append(f"{record}[{message.counted_by}]")
    reply = [message.reply.name.replace(" ", "")] if message.reply else []
    reply += ["data"] * message.reply_data
    assert request + ["->"] * message.has_reply + reply == words


def test_sizes_of_older_protocols() -> None:
    assert abi.COMPAT_INIT_IN.fields == {
        name: abi.INIT_IN.fields[name] for name in ("major", "minor", "max_readahead", "flags")
    }
    assert abi.COMPAT_INIT_IN.size == abi.COMPAT_INIT_IN_SIZE == 16
    assert list(abi.COMPAT_SETXATTR_IN.fields) == ["size", "flags"]
    assert abi.COMPAT_SETXATTR_IN.size == abi.COMPAT_SETXATTR_IN_SIZE == 8
    assert abi.INIT_OUT.fields["max_background"][0] == 16  # 24 bytes end with max_write
    assert abi.INIT_OUT.fields["time_gran"][0] == abi.COMPAT_22_INIT_OUT_SIZE
    assert abi.INIT_OUT.fields["max_readahead"][0] == abi.COMPAT_INIT_OUT_SIZE


def test_reply_to_create_is_two_structs() -> None:
    reply = abi.MESSAGES[abi.Opcode.CREATE].reply
    assert reply is abi.MESSAGES[abi.Opcode.TMPFILE].reply
    assert reply is abi.CREATE_OUT
    both = abi.ENTRY_OUT.pack(nodeid=5, attr_mode=0o100644) + abi.OPEN_OUT.pack(fh=9, backing_id=-1)
    assert both == reply.pack(
        entry_nodeid=5, entry_attr_mode=0o100644, open_fh=9, open_backing_id=-1
    )


# The same numbers from <linux/fuse.h> of this machine.

FACTS = {
    **{name: f"sizeof(struct {name})" for name in STRUCTS},
    **{
        f"{name}.{path}": f"offsetof(struct {name}, {path})"
        for name in STRUCTS
        for path, _, _ in members(name)
    },
    **{name: f"sizeof({name}) == 4 ? (unsigned)({name}) : {name}" for name in CONSTANTS},
}

PROGRAM_HEAD = """\
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/fuse.h>
int main(void) {
"""


class Header:
    """What a C compiler makes of <linux/fuse.h>: its version, and the FACTS that it knows."""

    def __init__(self, directory: Path) -> None:
        self.compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        self.directory = directory
        self.why_not = "no C compiler (cc, gcc, clang) is installed"
        self.values: dict[str, int] = {}
        self.minor = 0
        if self.compiler is None:
            return
        version, error = self.run({"minor": "FUSE_KERNEL_MINOR_VERSION"})
        if not version:
            self.why_not = f"<linux/fuse.h> cannot be compiled: {error}"
            return
        self.why_not = ""
        self.minor = version["minor"]
        # A header may lack what came in its own minor version; one bad line spoils the program.
        facts = {name: text for name, text in FACTS.items() if since(name) <= self.minor}
        while not self.values:
            self.values, error = self.run(facts)
            wrong = {int(line) for line in re.findall(r"facts\.c:(\d+):\d+: error", error)}
            names = list(facts)
            lines_before = PROGRAM_HEAD.count("\n") + 1
            for line in wrong:
                del facts[names[line - lines_before]]
            if not self.values and not wrong:
                raise RuntimeError(error)

    def run(self, facts: dict[str, str]) -> tuple[dict[str, int], str]:
        """The value of each expression; none, and the compiler's words, when one is wrong."""
        assert self.compiler is not None
        source = self.directory / "facts.c"
        program = self.directory / "facts"
        source.write_text(
            PROGRAM_HEAD
            + "".join(
                f'printf("{name} %llu\\n", (unsigned long long)({text}));\n'
                for name, text in facts.items()
            )
            + "return 0; }\n"
        )
        environment = {**os.environ, "LC_ALL": "C"}
        compiled = subprocess.run(
            [self.compiler, "-w", "-o", program, source],
            capture_output=True,
            text=True,
            env=environment,
            timeout=50,
        )
        if compiled.returncode:
            return {}, compiled.stderr
        printed = subprocess.run(
            [program], capture_output=True, text=True, check=True, timeout=10
        ).stdout
        return {line.split()[0]: int(line.split()[1]) for line in printed.splitlines()}, ""


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Header:
    header = Header(tmp_path_factory.mktemp("header"))
    if header.why_not:
        pytest.skip(header.why_not)
    return header


@pytest.mark.parametrize("name", FACTS)
def test_same_as_in_the_header_of_this_machine(name: str, header: Header) -> None:
    # Reasons do not repeat the name, which the test's id has: pytest sums up equal ones.
    mine = f"this machine's <linux/fuse.h> is of 7.{header.minor}"
    if since(name) > header.minor:
        pytest.skip(f"of 7.{since(name)}; {mine}")
    if name not in header.values and since(name) == header.minor:
        pytest.skip(f"came during 7.{since(name)}; {mine}")
    assert name in header.values, f"{mine} and has no {name}"
    assert value_of(name) == header.values[name]
