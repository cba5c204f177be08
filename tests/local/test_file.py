"""Open files against those of the builtin `open`: the same calls, the same results and errors."""

import errno
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import puffs
from puffs.fs.mem import MemFS
from tests.kernel.little import Little, fails

pytestmark = pytest.mark.usefixtures("either_way")

CONTENT = b"first line\nsecond line\r\nthird \xc3\xbc\n"

BINARY = tuple(
    "".join(letters)
    for kind in "rwxa"
    for letters in ((kind, "b"), (kind, "b", "+"), ("+", kind, "b"))
)
TEXT = ("r", "w", "x", "a", "r+", "w+", "x+", "a+", "rt", "wt+")

MODES = [
    (mode, buffering)
    for mode in (*BINARY, *TEXT)
    for buffering in (-1, 0, 1, 5)
    if "b" in mode or buffering != 0  # refused, by the builtin after it has made or cut the file
]


@pytest.fixture
def vfs() -> Iterator[puffs.LocalFileSystem]:
    with puffs.local(MemFS()) as vfs:
        yield vfs


def outcome(call: Callable[[], object]) -> object:
    """What a call returned; what it raised, by class, errno, and text where that is Python's."""
    try:
        result = call()
    except OSError as exc:
        return type(exc).__name__, exc.errno
    except Exception as exc:
        return type(exc).__name__
    return bytes(result) if isinstance(result, bytearray) else result


def readinto(stream: Any) -> object:
    buffer = bytearray(7)
    return stream.readinto(buffer), bytes(buffer)


def uses(stream: Any, data: Any) -> list[object]:
    """All that can be done with an open file, done."""
    calls: list[Callable[[], object]] = [
        lambda: (stream.mode, os.path.basename(stream.name), type(stream).__name__),
        lambda: (stream.readable(), stream.writable(), stream.seekable(), stream.closed),
        stream.tell,
        lambda: stream.read(5),
        stream.tell,
        stream.readline,
        lambda: stream.seek(0, os.SEEK_CUR) if stream.readable() else None,
        lambda: stream.write(data),
        stream.flush,
        stream.tell,
        lambda: stream.seek(3),
        lambda: stream.write(data[:2]),
        stream.tell,
        lambda: stream.seek(0, os.SEEK_END),
        lambda: stream.seek(-1),
        lambda: stream.seek(1, 9),
        lambda: stream.seek(2),
        stream.readlines,
        lambda: stream.truncate(4),
        lambda: stream.truncate(-1),
        stream.tell,
        lambda: stream.seek(1),
        stream.truncate,
        lambda: stream.seek(20),
        lambda: stream.write(data),
        lambda: stream.seek(0),
        lambda: readinto(stream),
        stream.read,
        stream.read,
        stream.isatty,
        stream.close,
        stream.close,
        lambda: stream.closed,
        lambda: stream.read(1),
        lambda: stream.write(data),
        lambda: stream.seek(0),
        stream.tell,
    ]
    return [outcome(call) for call in calls]


@pytest.mark.parametrize("exists", [True, False], ids=["there", "missing"])
@pytest.mark.parametrize(("mode", "buffering"), MODES)
def test_as_the_builtin(
    mode: str,
    exists: bool,
    buffering: int,
    tmp_path: Path,
    vfs: puffs.LocalFileSystem,
    recwarn: pytest.WarningsRecorder,
) -> None:
    data: Any = b"wrote\n" if "b" in mode else "wrote\n"
    found = []
    for opener, path in ((open, tmp_path / "f"), (vfs.open, "/f")):
        if exists:
            with opener(path, "wb") as stream:
                stream.write(CONTENT)
        results: list[object] = []

        def use(opener: Any = opener, path: Any = path, results: list[object] = results) -> None:
            encoding = None if "b" in mode else "utf-8"
            with opener(path, mode, buffering, encoding=encoding) as stream:
                results += uses(stream, data)

        with pytest.warns(RuntimeWarning) if "b" in mode and buffering == 1 else nothing():
            results.append(outcome(use))
        content = None
        if os.path.exists(path) if opener is open else vfs.exists(path):
            with opener(path, "rb") as stream:
                content = stream.read()
        found.append((replace_names(results), content))
    assert found[1] == found[0]


class nothing:
    """No warning is expected, and each one would be an error."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...


def replace_names(results: list[object]) -> list[object]:
    """Our raw file goes by its own name."""
    return eval(repr(results).replace("LocalFile", "FileIO"))  # type: ignore[no-any-return]


BAD_ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("",), {}),
    (("rw",), {}),
    (("b",), {}),
    (("rr",), {}),
    (("rbt",), {}),
    (("U",), {}),
    (("r++",), {}),
    ((7,), {}),
    (("rb",), {"encoding": "utf-8"}),
    (("rb",), {"errors": "strict"}),
    (("rb",), {"newline": ""}),
    (("r", 0), {}),
    (("r",), {"newline": "x"}),
    (("r",), {"encoding": "no such"}),
    (("r",), {"errors": 7}),
]


@pytest.mark.parametrize(("args", "kwargs"), BAD_ARGUMENTS)
def test_arguments_that_are_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], tmp_path: Path, vfs: puffs.LocalFileSystem
) -> None:
    (tmp_path / "f").write_text("text")
    vfs.write_text("/f", "text")
    expected = outcome(lambda: open(tmp_path / "f", *args, **kwargs))
    assert isinstance(expected, str), "the builtin refuses it"
    assert outcome(lambda: vfs.open("/f", *args, **kwargs)) == expected
    assert not vfs.mount.vnodes.busy(), "nothing stays open"


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_text_layers(
    newline: str | None, encoding: str, tmp_path: Path, vfs: puffs.LocalFileSystem
) -> None:
    text = "one\ntwo\r\nthree\rfour ü\n"
    found = []
    for opener, path in ((open, tmp_path / "f"), (vfs.open, "/f")):
        with opener(path, "w", encoding=encoding, newline=newline) as stream:
            stream.write(text)
            stream.reconfigure(line_buffering=True)
        with opener(path, "a+", encoding=encoding, newline=newline) as stream:
            position = stream.tell()
            stream.write(text)
            stream.seek(position)
            rest = stream.read()
            stream.seek(0)
            lines = list(stream)
        with opener(path, "rb") as stream:
            found.append((position, rest, lines, stream.read()))
    assert found[1] == found[0]


Step = tuple[str, int, bytes]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("read", "write", "seek", "end", "back", "truncate", "flush", "peek")),
        st.integers(0, 40),
        st.binary(max_size=12),
    ),
    max_size=14,
)


@settings(max_examples=150)
@given(
    mode=st.sampled_from(("r+b", "w+b", "a+b", "x+b")), buffering=st.integers(0, 16), steps=STEPS
)
def test_any_sequence_as_in_memory(mode: str, buffering: int, steps: list[Step]) -> None:
    """Against a plain model: an array of bytes and a position."""
    if buffering == 1:
        buffering = -1
    model, position = bytearray(CONTENT if mode[0] in "ra" else b""), 0
    with puffs.local(MemFS()) as vfs:
        if mode[0] != "x":
            vfs.write_bytes("/f", CONTENT)
        with vfs.open("/f", mode, buffering) as stream:
            position = len(model) if mode[0] == "a" else 0
            for what, number, data in steps:
                if what == "read":
                    assert stream.read(number) == model[position : position + number]
                    position = max(position, min(position + number, len(model)))
                elif what == "write":
                    if mode[0] == "a":
                        position = len(model)
                    if data:
                        model.extend(bytes(max(0, position - len(model))))
                        model[position : position + len(data)] = data
                    assert stream.write(data) == len(data)
                    position += len(data)
                    if mode[0] == "a":  # where a buffered one is before it has written
                        stream.flush()
                        position = stream.seek(len(model))
                elif what == "truncate":
                    stream.flush()
                    stream.truncate(number)
                    del model[number:]
                    model.extend(bytes(number - len(model)))
                elif what == "flush":
                    stream.flush()
                elif what == "peek":
                    assert stream.tell() == position
                elif what == "seek":
                    position = stream.seek(number)
                elif what == "end":
                    position = stream.seek(0, os.SEEK_END)
                    assert position == len(model)
                else:
                    number = min(number, position)
                    position = stream.seek(-number, os.SEEK_CUR)
        assert vfs.read_bytes("/f") == model


def test_appends_go_to_the_end_of_the_moment(vfs: puffs.LocalFileSystem) -> None:
    with vfs.open("/f", "ab", 0) as first, vfs.open("/f", "ab", 0) as second:
        for number in range(3):
            first.write(b"a%d " % number)
            second.write(b"b%d " % number)
        assert first.tell() == 15
    assert vfs.read_bytes("/f") == b"a0 b0 a1 b1 a2 b2 "


def test_large_data_goes_through(vfs: puffs.LocalFileSystem) -> None:
    data = os.urandom(3_000_001)
    assert vfs.write_bytes("/f", data) == len(data)
    assert vfs.read_bytes("/f") == data
    with vfs.open("/f", "rb") as stream:
        assert b"".join(iter(lambda: stream.read(77_777), b"")) == data


def test_data_and_holes_are_sought(vfs: puffs.LocalFileSystem) -> None:
    with vfs.open("/f", "wb", 0) as stream:
        stream.seek(1 << 20)
        stream.write(b"data")
        assert stream.seek(0, os.SEEK_DATA) >= 1 << 16
        assert stream.seek(0, os.SEEK_HOLE) == 0
        with fails(errno.ENXIO):
            stream.seek(1 << 21, os.SEEK_DATA)


@pytest.mark.parametrize("hint", ["nonseekable", "stream"])
def test_files_without_positions(hint: str) -> None:
    server = Little()
    with puffs.local(server) as vfs:
        vfs.write_bytes("/f", b"123456")
        server.says["open"] = puffs.Open("file", **{hint: True})
        with vfs.open("/f", "rb", 0) as stream:
            assert not stream.seekable()
            with fails(errno.ESPIPE):
                stream.seek(0)
            assert stream.read(3) == b"123"
            assert stream.read(3) == (b"456" if hint == "nonseekable" else b"123")
        with pytest.raises(io.UnsupportedOperation):
            vfs.open("/f", "r+b")
        vfs.open("/f", "ab").close()


def test_a_write_that_takes_less_is_gone_on_with() -> None:
    server = Little()
    with puffs.local(server) as vfs:
        with vfs.open("/f", "wb") as stream:
            taken = itertools.count(1)

            def some(node: int, offset: int, data: memoryview, file: object) -> int:
                part = data[: next(taken)]
                return Little.write(server, node, offset, part, file)

            server.says["write"] = some
            stream.write(b"all of this")
        assert bytes(server.nodes[2].data) == b"all of this"


def test_an_error_of_flush_reaches_who_closes() -> None:
    server = Little()
    with puffs.local(server) as vfs:
        stream = vfs.open("/f", "wb")
        server.says["flush"] = OSError(errno.ENOSPC, "no room after all")
        with fails(errno.ENOSPC):
            stream.close()
        assert stream.closed
        assert len(server.asked("close")) == 1
        assert server.asked("reclaim") == [("reclaim", 2)]


def test_the_attributes_of_an_open_file_are_asked_with_it() -> None:
    server = Little()
    with puffs.local(server) as vfs:
        with vfs.open("/f", "wb", 0) as stream:
            stream.seek(0, os.SEEK_END)
            assert server.asked("getattr")[-1] == ("getattr", 2, "file of f")
            stream.truncate(5)
            (_, node, changes, file, _) = server.asked("setattr")[-1]
            assert (node, changes.size, file) == (2, 5, "file of f")


def test_what_is_opened_says_what_it_is(vfs: puffs.LocalFileSystem) -> None:
    with vfs.open("/f", "wb", 0) as stream:
        assert repr(stream) == "<puffs.LocalFile name='/f' mode='wb'>"
    assert "closed" in repr(stream)
