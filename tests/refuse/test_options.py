"""libfuse's options: what each asks for, and what a caller then sees of a mount."""

import errno
import fcntl
import math
import os
import re
import stat
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from puffs.attach.fuse.options import OptionError
from puffs.refuse.options import (
    OPTIONS,
    Always,
    NoDifference,
    Refused,
    parse,
)
from puffs.refuse.settings import Dialect, Settings
from tests.refuse.asked import INO, Program

NOBODY = 65534

LIBFUSE_2 = """
hard_remove use_ino readdir_ino direct_io kernel_cache auto_cache noauto_cache umask uid gid
entry_timeout attr_timeout ac_attr_timeout negative_timeout noforget remember nopath intr
intr_signal modules debug fsname subtype allow_other allow_root nonempty blkdev blksize
auto_unmount large_read default_permissions context fscontext defcontext rootcontext max_read user
ro rw suid nosuid dev nodev exec noexec async sync dirsync atime noatime max_write max_readahead
max_background congestion_threshold async_read sync_read atomic_o_trunc no_remote_lock
no_remote_flock no_remote_posix_lock big_writes splice_write no_splice_write splice_move
no_splice_move splice_read no_splice_read subdir rellinks norellinks from_code to_code
"""
LIBFUSE_3 = """
kernel_cache auto_cache noauto_cache no_rofd_flush umask fmask dmask uid gid entry_timeout
attr_timeout ac_attr_timeout negative_timeout noforget remember modules parallel_direct_write
debug fsname subtype clone_fd max_idle_threads max_threads allow_other allow_root blkdev
auto_unmount max_read blksize default_permissions context fscontext defcontext rootcontext user ro
rw suid nosuid dev nodev exec noexec async sync dirsync atime noatime subdir rellinks norellinks
from_code to_code
"""
"""What libfuse 2.9 and 3.17 take in a list of options."""


DEFAULTS = ["rw", "nosuid", "nodev", "exec", "async", "atime", "noauto_cache", "async_read"]


def known(generation: str) -> set[str]:
    return {option.name for option in OPTIONS if generation in option.known.split()}


def test_no_option_of_libfuse_is_missing() -> None:
    assert set(LIBFUSE_2.split()) <= known("2")
    assert set(LIBFUSE_3.split()) <= known("3")


@pytest.mark.parametrize("dialect", ["fuse2", "fuse3"])
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_each_is_taken_or_refused_by_name(
    option: object, dialect: Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    assert option in OPTIONS
    of_modules = {"subdir": "subdir", "rellinks": "subdir", "norellinks": "subdir"}
    of_modules |= {"from_code": "iconv", "to_code": "iconv"}
    for known_option in OPTIONS:
        if known_option is not option:
            continue
        name, argument = known_option.name, known_option.argument
        arguments = {None: True, "M1:M2": "iconv", "CHARSET": "utf-8"}
        keywords: dict[str, Any] = {name: arguments.get(argument, "2")}
        if name in of_modules:
            keywords = {"subdir": "d"} | keywords if of_modules[name] == "subdir" else keywords
            keywords["modules"] = of_modules[name]
        with caplog.at_level("INFO", "puffs"):
            if isinstance(known_option.effect, Refused):
                with pytest.raises(OptionError, match=re.escape(repr(name))) as caught:
                    parse(keywords, dialect)
                assert known_option.effect.why in str(caught.value)
                assert known_option.effect.remedy in str(caught.value)
                return
            settings = parse(keywords, dialect)
        effect = known_option.effect
        told = any(name in record.getMessage() for record in caplog.records)
        assert told == isinstance(effect, NoDifference), (
            "it is said, once, what makes no difference"
        )
        by_default = name in DEFAULTS
        unchanged = settings == parse({}, dialect)
        assert unchanged == (
            isinstance(effect, Always | NoDifference) or by_default or name == "async_read"
        )


@pytest.mark.parametrize(
    ("keywords", "field", "value"),
    [
        ({"uid": 5}, "uid", 5),
        ({"uid": "5"}, "uid", 5),
        ({"umask": "022"}, "umask", 0o22),
        ({"umask": 22}, "umask", 0o22),
        ({"fmask": "0137"}, "fmask", 0o137),
        ({"entry_timeout": 2.5}, "entry_timeout", 2.5),
        ({"attr_timeout": 0}, "attr_timeout", 0.0),
        ({"attr_timeout": "1e3"}, "attr_timeout", 1000.0),
        ({"negative_timeout": -1}, "negative_timeout", 0.0),
        ({"entry_timeout": math.inf}, "entry_timeout", math.inf),
        ({"auto_cache": True, "noauto_cache": True}, "auto_cache", False),
        ({"direct_io": True}, "direct_io", True),
        ({"direct_io": False}, "direct_io", False),
        ({"debug": True}, "foreground", True),
        ({"debug": 1}, "debug", True),
        ({"foreground": 0}, "foreground", False),
        ({"parallel_direct_write": 1}, "parallel_direct_writes", True),
        ({"parallel_direct_write": 0}, "parallel_direct_writes", False),
        ({"fsname": "a,uid=9"}, "uid", 9),
    ],
)
def test_what_is_given_is_what_is_asked_for(
    keywords: dict[str, Any], field: str, value: object
) -> None:
    assert getattr(parse(keywords, "fuse2"), field) == value


@pytest.mark.parametrize(
    ("keywords", "field", "value"),
    [
        ({}, "spare_threads", 9),
        ({"nothreads": True}, "spare_threads", 0),
        ({"max_threads": 3}, "spare_threads", 2),
        ({"max_threads": 3, "nothreads": True}, "spare_threads", 0),
        ({}, "default_permissions", False),
        ({"default_permissions": True}, "default_permissions", True),
        ({"max_read": 0}, "max_read", None),
        ({"max_read": 131072}, "max_read", 131072),
        ({"max_read": 1 << 30}, "max_read", 1 << 20),
        ({"max_write": 5000}, "max_write", 4096),
        ({"max_background": 12}, "max_background", 12),
        ({"sync_read": True}, "async_read", False),
        ({"no_remote_lock": True}, "posix_locks", False),
        ({"no_remote_lock": True}, "flocks", False),
        ({"no_remote_flock": True}, "posix_locks", True),
        ({"fsname": r"a\,b"}, "fsname", "a,b"),
        ({"auto_unmount": True}, "auto_unmount", True),
        ({}, "auto_unmount", None),
    ],
)
def test_what_is_given_is_what_puffs_is_asked_for(
    keywords: dict[str, Any], field: str, value: object
) -> None:
    assert getattr(parse(keywords, "fuse3").mount, field) == value


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"alow_other": True}, ["'alow_other'", "'allow_other'"]),
        ({"zzz": "secret"}, ["'zzz'"]),
        ({"allow_other": 1}, ["'allow_other'", "takes no value", "allow_other=True"]),
        ({"uid": True}, ["'uid'", "needs a value", "uid=UID"]),
        ({"uid": "me"}, ["'uid'", "'me'", "a number from 0"]),
        ({"uid": -1}, ["'uid'", "'-1'"]),
        ({"uid": 4294967295}, ["'uid'", "4294967294"]),
        ({"umask": 0o22}, ["'umask'", "'18'", "octal", "022"]),
        ({"entry_timeout": "soon"}, ["'soon'", "a number of seconds"]),
        ({"attr_timeout": "nan"}, ["'nan'", "a number of seconds"]),
        ({"allow_other": True, "allow_root": True}, ["allow_other and allow_root"]),
        ({"modules": "gzip"}, ["'modules'", "'gzip'", "subdir, iconv"]),
        ({"modules": "subdir"}, ["subdir=DIR"]),
        ({"subdir": "/a"}, ["'subdir'", "modules=subdir"]),
        ({"modules": "iconv", "to_code": "klingon"}, ["'to_code'", "'klingon'"]),
        ({"modules": "iconv", "from_code": "utf-16"}, ["'from_code'", "utf-16"]),
        ({"fd": 5}, ["'fd'", "leave it out"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(keywords: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(OptionError) as caught:
        parse(keywords, "fuse2")
    text = str(caught.value)
    assert "\n" not in text
    assert "secret" not in text
    for words in says:
        assert words in text


@pytest.mark.parametrize(
    ("settings", "of_file", "of_directory"),
    [
        (Settings(uid=1), (0o100644, 1, 8), (0o40750, 1, 8)),
        (Settings(gid=2), (0o100644, 7, 2), (0o40750, 7, 2)),
        (Settings(umask=0o22), (0o100755, 7, 8), (0o40755, 7, 8)),
        (Settings(fmask=0o133), (0o100644, 7, 8), (0o40750, 7, 8)),
        (Settings(dmask=0o77), (0o100644, 7, 8), (0o40700, 7, 8)),
        (Settings(umask=0, fmask=0o111), (0o100666, 7, 8), (0o40777, 7, 8)),
    ],
)
def test_attributes_are_shown_as_asked_for(
    settings: Settings, of_file: tuple[int, ...], of_directory: tuple[int, ...]
) -> None:
    shown = settings.shown
    assert shown is not None
    assert shown(0o100644, 7, 8) == of_file
    assert shown(0o40750, 7, 8) == of_directory


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    assert parse({}, "fuse3").shown is None
    assert parse({}, "fuse3").translation is None


# --------------------------------------------------------------------------------- on a real mount

mounted = pytest.mark.fuse


def as_nobody(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, user=NOBODY, group=NOBODY, cwd="/"
    )


@mounted
@pytest.mark.parametrize(
    ("keywords", "seen"),
    [
        ({}, (0o644, 7, 8)),
        ({"uid": 5, "gid": 6, "umask": "077"}, (0o700, 5, 6)),
        ({"fmask": "0137"}, (0o640, 7, 8)),
        ({"dmask": "0"}, (0o644, 7, 8)),
    ],
)
def test_owner_and_permissions(
    asked: Program, keywords: dict[str, Any], seen: tuple[int, ...]
) -> None:
    asked.start(foreground=True, **keywords).until_mounted()
    found = os.stat(asked.path / "file")
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == seen
    for entry in os.scandir(asked.path):
        if entry.name == "file":
            assert entry.stat().st_uid == seen[1]


@mounted
def test_inode_numbers_are_the_programs_if_that_is_asked_for(asked: Program) -> None:
    asked.start("mfusepy", foreground=True, use_ino=True).until_mounted()
    assert os.stat(asked.path / "file").st_ino == INO


@mounted
def test_inode_numbers_are_the_kernels_otherwise(asked: Program) -> None:
    asked.start(foreground=True).until_mounted()
    numbers = {os.lstat(asked.path / name).st_ino for name in ("file", "dir", "dir/file")}
    assert len(numbers) == 3


@mounted
@pytest.mark.parametrize(
    ("keywords", "getattrs"),
    [
        ({"attr_timeout": 1000, "entry_timeout": 1000}, 1),
        ({"attr_timeout": 0, "entry_timeout": 1000}, 3),
        ({"attr_timeout": 1000, "entry_timeout": 0}, 3),
    ],
)
def test_names_and_attributes_are_trusted_for_so_long(
    asked: Program, keywords: dict[str, Any], getattrs: int
) -> None:
    asked.start(foreground=True, **keywords).until_mounted()
    for _ in range(3):
        os.stat(asked.path / "file")
    assert len([note for note in asked.notes("getattr") if note[1] == "/file"]) >= getattrs
    if getattrs == 1:
        assert len([note for note in asked.notes("getattr") if note[1] == "/file"]) == 1


@mounted
@pytest.mark.parametrize(("seconds", "asked_for"), [(0, 3), (1000, 1)])
def test_absent_names_are_remembered(asked: Program, seconds: int, asked_for: int) -> None:
    asked.start(foreground=True, negative_timeout=seconds).until_mounted()
    for _ in range(3):
        assert not os.path.exists(asked.path / "none")
    assert asked.notes("getattr").count(["getattr", "/none"]) == asked_for


@mounted
@pytest.mark.parametrize(
    ("keywords", "opens", "changes", "reads"),
    [
        ({}, 2, False, 2),
        ({"kernel_cache": True}, 2, False, 1),
        ({"auto_cache": True}, 2, False, 1),
        ({"auto_cache": True, "attr_timeout": 0, "ac_attr_timeout": 0}, 2, True, 2),
        ({"auto_cache": True, "noauto_cache": True}, 2, False, 2),
    ],
)
def test_data_is_kept_across_opens(
    asked: Program, keywords: dict[str, Any], opens: int, changes: bool, reads: int
) -> None:
    asked.start("mfusepy", foreground=True, **keywords).until_mounted()
    for number in range(opens):
        if changes and number:
            asked.do("change")
        data = (asked.path / "file").read_bytes()
        assert data == (b"y" if changes and number else b"x") * 10000
    assert len(asked.notes("read")) == reads


@mounted
def test_direct_io_has_every_read_and_write_come(asked: Program) -> None:
    asked.start(foreground=True, direct_io=True).until_mounted()
    with open(asked.path / "file", "rb", buffering=0) as file:
        for _ in range(3):
            assert os.pread(file.fileno(), 100, 0) == b"x" * 100
    assert asked.notes("read") == [["read", "/file", "100"]] * 3


@mounted
def test_reads_are_as_large_as_asked_for(asked: Program) -> None:
    asked.start(foreground=True, max_read=4096, direct_io=True).until_mounted()
    fd = os.open(asked.path / "file", os.O_RDONLY)
    try:
        os.read(fd, 10000)
    finally:
        os.close(fd)
    assert {note[2] for note in asked.notes("read")} <= {"4096", "1808"}


@mounted
@pytest.mark.parametrize(("size", "most"), [(4096, 4096), (65536, 10000)])
def test_writes_are_as_large_as_asked_for(asked: Program, size: int, most: int) -> None:
    asked.start(foreground=True, max_write=size, direct_io=True).until_mounted()
    fd = os.open(asked.path / "file", os.O_WRONLY)
    try:
        assert os.write(fd, b"z" * 10000) == 10000
    finally:
        os.close(fd)
    assert max(int(note[2]) for note in asked.notes("write")) == most


@mounted
@pytest.mark.parametrize(
    ("keywords", "wanted"),
    [
        ({"fsname": "box", "subtype": "zip"}, ("fuse.puffs.zip", "box")),
        ({}, ("fuse.puffs.asked", "Asked")),
    ],
)
def test_source_and_type_are_shown(
    asked: Program, keywords: dict[str, Any], wanted: tuple[str, str]
) -> None:
    found = asked.start(foreground=True, **keywords).until_mounted()
    assert (found.fstype, found.source) == wanted


@mounted
def test_flags_of_the_mount(asked: Program) -> None:
    asked.start(foreground=True, ro=True, noexec=True, noatime=True, sync=True).until_mounted()
    flags = os.statvfs(asked.path).f_flag
    assert flags & (os.ST_RDONLY | os.ST_NOEXEC | os.ST_NOATIME)
    with pytest.raises(OSError) as caught:
        open(asked.path / "file", "r+b")
    assert caught.value.errno == errno.EROFS


@mounted
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("keywords", "listed", "secret"),
    [
        ({}, False, False),
        ({"allow_root": True}, False, False),
        ({"allow_other": True}, True, True),
        ({"allow_other": True, "default_permissions": True}, True, False),
    ],
    ids=str,
)
def test_who_may_use_it(
    asked: Program, keywords: dict[str, Any], listed: bool, secret: bool
) -> None:
    asked.start(foreground=True, **keywords).until_mounted()
    assert (asked.path / "secret").read_bytes() == b"x" * 10000  # now the kernel knows it
    assert (as_nobody("ls", asked.path).returncode == 0) == listed
    assert (as_nobody("cat", asked.path / "secret").returncode == 0) == secret
    assert (as_nobody("stat", asked.path / "secret").returncode == 0) == listed


@mounted
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_with_allow_root_root_and_the_owner_may_and_nobody_else(open_place: Path) -> None:
    """Where the owner is not root."""
    # Tried with the guard itself: an ordinary user mounts by fusermount3, which may not be there.
    from puffs.attach.fuse.abi import Opcode
    from puffs.refuse.serving import guard
    from puffs.server.cred import Cred, requester

    called: list[str] = []

    class Channel:
        def __init__(self, uid: int) -> None:
            self.uid = uid

        def cred(self) -> Cred:
            return Cred(self.uid, 0, 0)

        def noatime(self) -> bool:
            return False

    table: list[Callable[[int, int, int], None]] = [lambda *_: called.append("asked")] * 64
    guard(1000)(table)
    for uid, opcode, answered in (
        (1000, Opcode.LOOKUP, True),
        (0, Opcode.LOOKUP, True),
        (1001, Opcode.LOOKUP, False),
        (1001, Opcode.OPENDIR, False),
        (1001, Opcode.READ, True),
        (1001, Opcode.RELEASE, True),
    ):
        token = requester.set(Channel(uid))
        called.clear()
        refused = nullcontext() if answered else pytest.raises(PermissionError)
        try:
            with refused:
                table[opcode](1, 1, 0)
        finally:
            requester.reset(token)
        assert (called == ["asked"]) == answered, (uid, opcode)


@mounted
@pytest.mark.parametrize(
    ("keywords", "comes"), [({}, True), ({"no_remote_lock": True}, False)], ids=str
)
def test_locks_are_the_programs_or_the_kernels(
    asked: Program, keywords: dict[str, Any], comes: bool
) -> None:
    asked.start(foreground=True, **keywords).until_mounted()
    with open(asked.path / "file", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
    assert bool(asked.notes("lock")) == comes


@mounted
def test_flush_after_reading_can_be_left_out(asked: Program) -> None:
    asked.start("mfusepy", foreground=True, no_rofd_flush=True).until_mounted()
    (asked.path / "file").read_bytes()
    assert asked.notes("flush") == []
    with open(asked.path / "file", "r+b"):
        pass
    assert asked.notes("flush") == [["flush", "/file"]]


@mounted
@pytest.mark.parametrize(
    ("keywords", "removed"), [({}, "rename"), ({"hard_remove": True}, "unlink")], ids=str
)
def test_open_files_are_hidden_or_removed(
    asked: Program, keywords: dict[str, Any], removed: str
) -> None:
    asked.start(foreground=True, **keywords).until_mounted()
    with open(asked.path / "file", "rb"):
        os.unlink(asked.path / "file")
        assert [note[0] for note in asked.notes("rename", "unlink")] == [removed]
        assert not os.path.exists(asked.path / "file")


@mounted
@pytest.mark.parametrize(
    ("api", "keywords", "wanted"),
    [
        ("fusepy", {}, ["truncate", "/file", "0"]),
        ("fusepy", {"atomic_o_trunc": True}, ["open", "/file", "O_TRUNC"]),
        ("mfusepy", {}, ["truncate", "/file", "0"]),
    ],
    ids=str,
)
def test_who_empties_a_file_that_is_opened(
    asked: Program, api: str, keywords: dict[str, Any], wanted: list[str]
) -> None:
    asked.start(api, foreground=True, **keywords).until_mounted()
    os.close(os.open(asked.path / "file", os.O_WRONLY | os.O_TRUNC))
    assert wanted in asked.notes("open", "truncate")
    assert len(asked.notes("truncate")) == (wanted[0] == "truncate")


@mounted
@pytest.mark.parametrize(
    ("api", "keywords", "code"),
    [("fusepy", {}, 1), ("fusepy", {"nonempty": True}, 0), ("mfusepy", {}, 0)],
    ids=str,
)
def test_what_is_not_empty_is_mounted_over_if_that_is_asked_for(
    asked: Program, api: str, keywords: dict[str, Any], code: int
) -> None:
    (asked.path / "there").touch()
    asked.start(api, **keywords)
    status, complaint = asked.wait()
    if code:
        assert status == 3
        assert "is not empty" in complaint
        assert asked.notes("RuntimeError") == [["RuntimeError", str(code)]]
    else:
        asked.until_mounted()
        assert "file" in os.listdir(asked.path)


@mounted
def test_debug_prints_each_request(asked: Program) -> None:
    asked.start(debug=True).until_mounted()
    (asked.path / "file").read_bytes()
    subprocess.run(["umount", asked.path], check=True)
    status, printed = asked.wait()
    assert status == 0
    assert re.search(r"^\S+ read +/file offset=0 ", printed, re.MULTILINE)
    # Not even the first is missing: nobody is served before the printing begins.
    assert re.search(r"^\S+ statvfs ", printed.splitlines()[0]), printed
