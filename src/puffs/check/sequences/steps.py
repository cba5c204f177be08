"""Which steps a random sequence is made of: a table of calls with places that are filled in.

A step is a line of Python, as it stands in the script that shows a difference. `f0` to `f2` are
descriptors, -1 until one is opened. Some lines are carried out by another user.
"""

from collections.abc import Collection, Sequence
from string import Formatter
from typing import Final, NamedTuple

from hypothesis import strategies as st

DESCRIPTORS: Final = ("f0", "f1", "f2")
USERS: Final = (0,) * 10 + (1000, 2000)

_OFTEN: Final = 80
"""Of a hundred names and descriptors, so many are some that an earlier step has made."""
_NAMES: Final = ("a", "b", "c", "d")
_ODD: Final = (
    *("n" * 255, "ü" * 127, "ü\n", "\udcff", "\udcff\udcfe", " ", ".a", "a\\b", "-", "n" * 256, ""),
    *("a/", "a/.", ".", "a//b", "./a", "b/b/", "/".join("a" * 40), "/".join("d" * 8)),
)
"""Also names that are too long, not UTF-8, or none."""
_TARGETS: Final = (
    *("a", "b", "c", "d", "a/b", "d/a", ".", "a/", "b/.", "nowhere/a", "t" * 4095, "\udcff"),
)
"""What symbolic links hold: they lead to others, to themselves, to nothing, and never upwards."""
_OFFSETS: Final = (
    *(0, 1, 3, 511, 512, 1000, 4095, 4096, 4097, 5000, 8191, 8192, 12288),
    *(65535, 65536, 100_000, 131_072, 140_001),
)
_SIZES: Final = (1, 2, 3, 10, 100, 511, 4095, 4096, 4097, 8192, 10_000, 65_536, 131_073, 0)
_ACCESS: Final = (
    *("os.O_RDWR", "os.O_RDWR", "os.O_RDONLY", "os.O_WRONLY", "os.O_RDWR | os.O_APPEND"),
    *("os.O_RDWR | os.O_TRUNC", "os.O_WRONLY | os.O_TRUNC", "os.O_RDWR | os.O_EXCL"),
    *("os.O_RDONLY | os.O_NOFOLLOW", "os.O_RDONLY | os.O_DIRECTORY", "os.O_RDWR | os.O_SYNC"),
    *("os.O_PATH", "os.O_PATH | os.O_NOFOLLOW", "os.O_RDONLY | os.O_TRUNC"),
)
_MODES: Final = (
    *("0o644", "0o666", "0o777", "0o755", "0o600", "0o700", "0o000", "0o444", "0o555", "0o311"),
    *("0o1777", "0o2775", "0o2755", "0o4755", "0o6777", "0o2644"),
)


def _sources(*values: object) -> tuple[str, ...]:
    return tuple(ascii(value) for value in values)


PLACES: Final = {
    "target": _sources(*_TARGETS),
    "slot": DESCRIPTORS,
    "access": tuple(f"{flags} | os.O_NONBLOCK" for flags in _ACCESS),
    "mode": _MODES,
    "umask": ("0o022", "0o000", "0o077", "0o027"),
    "size": _sources(*_SIZES),
    "offset": _sources(*_OFFSETS),
    "length": _sources(*_SIZES, *_OFFSETS),
    "data": tuple(f"b'{letter}' * {size}" for size in _SIZES for letter in "xyz"),
    "whence": ("os.SEEK_SET", "os.SEEK_CUR", "os.SEEK_END"),
    "time": ("0", "1", "999999999", "10**18 + 1", "10**18 + 999999999", "5 * 10**17", "-10**9"),
    "id": ("0", "1000", "2000", "-1"),
    "group": ("0", "1000", "2000"),
    "kind": ("stat.S_IFREG", "stat.S_IFIFO", "stat.S_IFSOCK"),
    "falloc": ("0", "1", "3", "3"),
    "key": _sources("user.a", "user.a", "user.b", "user." + "k" * 250, "user.", "nothing.a"),
    "value": ("b''", "b'1'", "b'v' * 100", "b'w' * 2000"),
    "how": ("0", "0", "os.XATTR_CREATE", "os.XATTR_REPLACE"),
    "rights": ("os.F_OK", "os.R_OK", "os.W_OK", "os.X_OK", "os.R_OK | os.W_OK | os.X_OK"),
    "lock": ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", "fcntl.LOCK_UN"),
    "flags": ("1", "2", "2", "3", "0"),
}
"""What each place may be, as source; what is listed first is simplest. Beside these there are
`new`, `file`, `dir`, `path` and `fd`, which depend on the steps before: see `_World`.
"""


class Row(NamedTuple):
    """A call. `needs`: operations without which it says nothing; `weight`: how often it comes;
    `makes`: of which sort what it names `new` is then; `root`: only the superuser can do it.
    """

    needs: str
    weight: int
    text: str
    makes: str = ""
    root: bool = False


_XATTRS: Final = "setxattr getxattr listxattr removexattr"

# Who opens a fifo, or reads from it, would wait for the other end: O_NONBLOCK.
_CREATE: Final = "{slot} = os.open({new}, os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o666)"

ROWS: Final = (
    Row("create", 6, _CREATE, "file"),
    Row("create", 8, "{slot} = os.open({new}, os.O_CREAT | {access}, {mode})", "file"),
    Row("create", 4, "{slot} = os.open({path}, os.O_CREAT | os.O_EXCL | {access}, {mode})"),
    Row("create", 4, "{slot} = os.open({path}, os.O_CREAT | {access}, {mode})"),
    Row("", 8, "{slot} = os.open({file}, {access})"),
    Row("", 4, "{slot} = os.open({path}, {access})"),
    Row("tmpfile", 4, "{slot} = os.open({dir}, os.O_TMPFILE | os.O_RDWR, {mode})"),
    Row("link", 2, "link_open({fd}, {new})", "file", root=True),
    Row("", 2, "{slot} = os.dup({fd})"),
    Row("", 6, "os.close({fd})"),
    Row("read", 4, "runs(os.read({fd}, {size}))"),
    Row("read", 6, "runs(os.pread({fd}, {size}, {offset}))"),
    Row("read", 4, "held({fd})"),
    Row("write", 8, "os.write({fd}, {data})"),
    Row("write", 12, "os.pwrite({fd}, {data}, {offset})"),
    Row("", 6, "seek({fd}, {offset}, {whence})"),
    Row("read", 2, "holes({fd})"),
    Row("setattr", 8, "os.ftruncate({fd}, {offset})"),
    Row("setattr", 6, "cut({file}, {offset})"),
    Row("fallocate", 8, "fallocate({fd}, {falloc}, {offset}, {length})"),
    Row("read write", 6, "os.copy_file_range({fd}, {fd}, {length}, {offset}, {offset})"),
    Row("read write", 2, "send({fd}, {fd}, {offset}, {length})"),
    Row("read write", 6, "mapped_write({fd}, {offset}, {data})"),
    Row("read write", 1, "elsewhere(lambda: mapped_write({fd}, {offset}, {data}))"),
    Row("", 2, "os.fsync({fd})"),
    Row("", 2, "os.fdatasync({fd})"),
    Row("mkdir", 6, "os.mkdir({new}, {mode})", "dir"),
    Row("mkdir", 6, "os.mkdir({new})", "dir"),
    Row("mkdir", 2, "os.mkdir({path})"),
    Row("rmdir", 6, "os.rmdir({dir})"),
    Row("remove", 8, "os.unlink({file})"),
    Row("remove rmdir", 2, "os.unlink({dir})"),
    Row("rename", 6, "os.rename({path}, {new})", "file"),
    Row("rename", 4, "os.rename({file}, {file})"),
    Row("rename", 6, "os.rename({path}, {path})"),
    Row("rename", 2, "os.rename({dir}, {dir})"),
    Row("rename", 4, "rename2({path}, {path}, {flags})"),
    Row("rename", 2, "rename2({path}, {new}, {flags})", "file"),
    Row("link", 6, "os.link({file}, {new}, follow_symlinks=False)", "file"),
    Row("link", 2, "os.link({path}, {path}, follow_symlinks=False)"),
    Row("symlink", 6, "os.symlink({target}, {new})", "file"),
    Row("readlink", 2, "ascii(os.readlink({file}))"),
    Row("mknod", 4, "os.mknod({new}, {kind} | {mode})", "file"),
    Row("", 6, "attributes(os.stat({path}))"),
    Row("", 4, "attributes(os.lstat({path}))"),
    Row("", 4, "attributes(os.fstat({fd}))"),
    Row("read", 4, "content({file})"),
    Row("readdir", 6, "ascii(sorted(os.listdir({dir})))"),
    Row("readdir create", 2, "listed_while({dir}, lambda: os.mknod({new}))", "file"),
    Row("readdir remove", 2, "listed_while({dir}, lambda: os.unlink({file}))"),
    Row("readdir", 1, "tree()"),
    Row("", 2, "os.access({path}, {rights}, effective_ids=True)"),
    Row("setattr", 6, "os.chmod({path}, {mode})"),
    Row("setattr", 2, "os.fchmod({fd}, {mode})"),
    Row("setattr", 6, "os.chown({path}, {id}, {group}, follow_symlinks=False)"),
    Row("setattr", 2, "os.fchown({fd}, {id}, {group})"),
    Row("setattr", 6, "set_times({path}, {time}, {time})"),
    Row("setattr", 2, "os.utime({path})"),
    Row("setattr", 2, "os.utime({fd})"),
    Row("statvfs", 2, "room({path})"),
    Row(_XATTRS, 4, "os.setxattr({path}, {key}, {value}, {how})"),
    Row(_XATTRS, 2, "runs(os.getxattr({path}, {key}))"),
    Row(_XATTRS, 2, "str(sorted(os.listxattr({path})))"),
    Row(_XATTRS, 2, "os.removexattr({path}, {key})"),
    Row("", 2, "fcntl.flock({fd}, {lock})"),
    Row("", 1, "elsewhere(lambda: fcntl.lockf({fd}, {lock}, {size}, {offset}))"),
    Row("", 4, "fcntl.lockf({fd}, {lock}, {size}, {offset})"),
    Row("", 2, "os.umask({umask})"),
    Row("setattr mkdir", 1, "moved(lambda: os.mkdir({new}), {dir}, {path})", "dir"),
    Row("setattr create", 1, "moved(lambda: os.mknod({new}), {dir}, {path})", "file"),
    Row("setattr remove", 1, "moved(lambda: os.unlink({file}), {dir}, {file}, {path})"),
    Row("setattr rmdir", 1, "moved(lambda: os.rmdir({dir}), {dir}, {path})"),
    Row("setattr rename", 1, "moved(lambda: os.rename({path}, {new}), {dir}, {path}, {file})"),
    Row("setattr rename", 1, "moved(lambda: os.rename({path}, {path}), {dir}, {path}, {file})"),
    Row("setattr link", 1, "moved(lambda: os.link({file}, {new}), {dir}, {file})", "file"),
    Row("setattr write", 1, "moved(lambda: os.pwrite({fd}, {data}, {offset}), {file}, {file})"),
    Row("setattr", 1, "moved(lambda: cut({file}, {offset}), {file}, {dir})"),
    Row("setattr", 1, "moved(lambda: os.ftruncate({fd}, {offset}), {file}, {file})"),
    Row("setattr", 1, "moved(lambda: os.chmod({path}, {mode}), {path}, {dir})"),
    Row("setattr", 1, "moved(lambda: os.close(os.open({file}, {access})), {file}, {dir})"),
    Row("setattr", 1, "moved(lambda: sorted(os.listdir({dir})), {dir}, {path})"),
)

BEGINNING: Final = (
    Row("create", 3, _CREATE, "file"),
    Row("mkdir", 3, "os.mkdir({new})", "dir"),
    Row("write", 2, "os.pwrite({fd}, {data}, {offset})"),
)
"""What a sequence begins with, so that there is something."""


def wanted(row: Row, operations: Collection[str], root: bool) -> bool:
    """Whether a row says something about a file server with these operations, to this user."""
    present = {*operations, *(["create"] if "mknod" in operations else [])}
    return (root or not row.root) and present.issuperset(row.needs.split())


def sequences(operations: Collection[str], root: bool) -> st.SearchStrategy[list[str]]:
    """Lists of lines, of rows that are `wanted`."""
    first, then = (
        _drawn(_weighted([row for row in rows if wanted(row, operations, root)]), root)
        for rows in (BEGINNING, ROWS)
    )
    # Lists of lists: a single one is short as a rule, and shrinks badly where it must not be.
    parts = st.lists(st.lists(then, max_size=16), max_size=16)
    return st.builds(_lines, st.lists(first, max_size=16), parts)


class _Drawn(NamedTuple):
    """A row, and what its places are: source, or a number for `_World`."""

    row: Row
    values: list[str | int]
    uid: int


_NUMBERS: Final = st.integers(0, 99)


def _weighted(rows: list[Row]) -> st.SearchStrategy[Row]:
    return st.sampled_from([row for row in rows for _ in range(row.weight)])


@st.composite
def _drawn(draw: st.DrawFn, rows: st.SearchStrategy[Row], root: bool) -> _Drawn:
    row = draw(rows)
    values = [draw(_STRATEGIES.get(place, _NUMBERS)) for place in _places(row)]
    return _Drawn(row, values, draw(st.sampled_from(USERS)) if root else 0)


def _places(row: Row) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(row.text) if name]


_STRATEGIES: Final[dict[str, st.SearchStrategy[str | int]]] = {
    name: st.sampled_from(sources) for name, sources in PLACES.items()
}


class _World:
    """What the lines up to here may have made, so that the next ones can use it."""

    def __init__(self) -> None:
        self._made: dict[str, list[str]] = {"file": [], "dir": [], "fd": []}

    def lines(self, drawn: list[_Drawn]) -> list[str]:
        """The lines of a sequence."""
        return [self._line(*one) for one in drawn]

    def _line(self, row: Row, values: list[str | int], uid: int) -> str:
        named = zip(_places(row), values, strict=True)
        filled = [(place, self._filled(place, value)) for place, value in named]
        for place, source in filled:
            if place == "slot":
                self._made["fd"].append(source)
            elif place == "new" and row.makes:
                self._made[row.makes].append(source)
        slot, assigned, call = _numbered(row.text).rpartition("{} = ")
        call = f"as_user({uid}, lambda: {call})" if uid else call
        return (slot + assigned + call).format(*(source for _, source in filled))

    def _filled(self, place: str, value: str | int) -> str:
        if isinstance(value, str):
            return value
        if place == "new":
            return self._new(value)
        sorts = ("file", "dir") if place == "path" else (place,)
        made = [source for sort in sorts for source in self._made[sort]]
        if made and value < _OFTEN:
            return made[value % len(made)]
        return DESCRIPTORS[value % len(DESCRIPTORS)] if place == "fd" else self._new(99 - value)

    def _new(self, value: int) -> str:
        """A name in a directory that was made, or beside all."""
        names = _ODD if value >= 95 else _NAMES
        parents = ["", *self._made["dir"]]
        parent = parents[value // len(_NAMES) % len(parents)][1:-1]
        name = ascii(names[value % len(names)])
        return f"'{parent}/{name[1:]}" if parent else name


def _lines(beginning: list[_Drawn], parts: list[list[_Drawn]]) -> list[str]:
    return _World().lines([*beginning, *(one for part in parts for one in part)])


def _numbered(text: str) -> str:
    """The text of a row with places that have no names: one that comes twice is filled twice."""
    parts: Sequence[tuple[str, str | None, str | None, str | None]] = [*Formatter().parse(text)]
    return "".join(before + ("{}" if name else "") for before, name, _, _ in parts)
