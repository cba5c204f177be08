"""Operations on open files and directories, of a program for fusepy or mfusepy.

Each factory makes one of puffs, on paths, which asks the program; None where the kernel is to know
that there is none.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from puffs.refuse.attributes import WHOLE
from puffs.refuse.calls import Method, absent, error, handle
from puffs.refuse.program import Program
from puffs.server.attr import Attr
from puffs.server.cred import Cred
from puffs.server.types import DirEntry


def _open(program: Program) -> Method:
    ask = program.calls.find("open") or _zero
    failed = program.failures.of

    def open(path: str, flags: int, cred: Cred) -> Any:
        try:
            file = ask(path, flags)
            if type(file) is not int or file >> 64:
                file = handle(file)
        except BaseException as exc:
            raise failed("open", exc) from None
        return program.opened(file, flags) if program.hinted else file

    return _open_raw(program) if program.raw_fi else open


def _open_raw(program: Program) -> Method:
    ask, kind = program.calls.status("open") or _zero, program.dialect.file_info

    def open(path: str, flags: int, cred: Cred) -> Any:
        fi = kind(flags=flags)
        ask(path, fi)
        return program.opened_raw(fi, flags)

    return open


def _zero(*_args: Any) -> int:
    """In place of an `open` of the program."""
    return 0


def create(program: Program) -> Method | None:
    """What makes a file and opens it."""
    ask = program.calls.find("create")
    if ask is None:
        return None
    if program.raw_fi:
        return _create_raw(program)
    takes_flags = program.dialect.create_takes_flags and program.parameters("create") != 2
    failed = program.failures.of

    def make(path: str, attr: Attr, flags: int, cred: Cred) -> Any:
        try:
            mode = attr.mode
            made = ask(path, mode, flags | os.O_CREAT) if takes_flags else ask(path, mode)
            file = handle(made)
        except BaseException as exc:
            raise failed("create", exc) from None
        return program.opened(file, os.O_RDWR) if program.hinted else file

    return make


def _create_raw(program: Program) -> Method:
    ask, kind = program.calls.status("create") or absent, program.dialect.file_info

    def make(path: str, attr: Attr, flags: int, cred: Cred) -> Any:
        fi = kind(flags=flags | os.O_CREAT)
        ask(path, attr.mode, fi)
        return program.opened_raw(fi, os.O_RDWR)

    return make


def close(program: Program) -> Method:
    """What gives an open file back."""
    return program.calls.status("release", given=2) or _nothing


def _nothing(path: str | None, file: Any, flags: int) -> None:
    """In place of a `release` of the program."""


def _flush(program: Program) -> Method | None:
    ask = program.calls.status("flush", given=2)
    if ask is None or not program.raw_fi:
        return ask
    kind = program.dialect.file_info

    def flush(path: str | None, file: Any, owner: int) -> None:
        fi = kind.from_buffer_copy(file)
        fi.flush, fi.lock_owner = 1, owner
        ask(path, fi, owner)

    return flush


def _syncing(name: str) -> Callable[[Program], Method | None]:
    def make(program: Program) -> Method | None:
        ask = program.calls.status(name)
        if ask is None:
            return None

        def sync(path: str | None, datasync: bool, file: Any) -> None:
            ask(path, int(datasync), 0 if file is None else file)

        return sync

    return make


def _read(program: Program) -> Method:
    ask = program.calls.find("read") or absent
    failed = program.failures.of

    def read(path: str | None, offset: int, size: int, file: Any) -> Any:
        try:
            data = ask(path, size, offset, file)
            if not data:
                return b""
            if len(data) > size:
                raise ValueError(f"{len(data)} bytes were returned where {size} were asked for")
        except BaseException as exc:
            raise failed("read", exc) from None
        return data

    return read


def _write(program: Program) -> Method:
    ask = program.calls.find("write") or absent
    failed = program.failures.of

    def write(path: str | None, offset: int, data: memoryview, file: Any) -> int:
        try:
            written = ask(path, bytes(data), offset, file)
        except BaseException as exc:
            raise failed("write", exc) from None
        if type(written) is int and written >= 0:
            return written
        if written is None:
            return 0
        if isinstance(written, int) and written < 0:
            raise error(-written)
        return int(written)

    return write


def _opendir(program: Program) -> Method | None:
    ask = program.calls.find("opendir")
    if ask is None:
        return None
    failed = program.failures.of

    def opendir(path: str, cred: Cred) -> int:
        try:
            return handle(ask(path))
        except BaseException as exc:
            raise failed("opendir", exc) from None

    return opendir


def _closedir(program: Program) -> Method | None:
    ask = program.calls.status("releasedir")
    return None if ask is None else lambda path, file: ask(path, file or 0)


def _readdir(program: Program) -> Method:
    from_offset = program.dialect.listing_from
    ask_from = None if from_offset is None else program.calls.find(from_offset)
    ask = program.calls.find("readdir") or absent
    failed = program.failures.of

    def readdir(path: str, offset: int, file: Any) -> Iterable[Any]:
        try:
            items = ask(path, file or 0)
            return [item if type(item) is str else _entry(program, item) for item in items]
        except BaseException as exc:
            raise failed("readdir", exc) from None

    def readdir_from(path: str, offset: int, file: Any) -> Iterable[Any]:
        assert ask_from is not None
        try:
            for item in ask_from(path, offset, file or 0):
                yield item if type(item) is str else _placed(program, item)
        except GeneratorExit:
            raise
        except BaseException as exc:
            raise failed("readdir_with_offset", exc) from None

    return readdir if ask_from is None else readdir_from


def _entry(program: Program, item: Any) -> Any:
    """What `readdir` yields beside bare names: a name, and attributes, all or some of them."""
    if isinstance(item, str):
        return item
    name, told, _ = item
    if isinstance(told, dict) and told.keys() >= WHOLE:
        return name, program.attr_of(told)
    return _placed(program, (name, told, 0))


def _placed(program: Program, item: Any) -> Any:
    """The same with a position in the directory."""
    if isinstance(item, str):
        return item
    name, told, position = item
    if isinstance(told, int):
        return DirEntry(name, told, 0, position)
    told = told or {}
    ino = told.get("st_ino", 0) if program.settings.use_ino else 0
    return DirEntry(name, told.get("st_mode", 0), ino, position)


FILES: Final[dict[str, Callable[[Program], Method | None]]] = {
    "open": _open,
    "create": create,
    "close": close,
    "flush": _flush,
    "fsync": _syncing("fsync"),
    "read": _read,
    "write": _write,
    "opendir": _opendir,
    "closedir": _closedir,
    "fsyncdir": _syncing("fsyncdir"),
    "readdir": _readdir,
}
