"""Programs for fusepy and mfusepy, asked in process: what each operation is given, and what its
answer means.
"""

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable
from errno import EACCES, EINVAL, EIO, ENOENT, ENOSYS, ERANGE, EROFS
from typing import Any

import pytest

import puffs
from puffs.attach.local.vfs import LocalFileSystem
from puffs.refuse import fusepy, mfusepy
from puffs.refuse.options import parse
from puffs.refuse.pathfs import PathServer
from puffs.server.cred import Cred
from tests.refuse.programs_for_paths import FusepyShelf, MfusepyShelf, Shelf

Api = Any
"""The module `fusepy` or `mfusepy` of puffs."""


@pytest.fixture(params=[fusepy, mfusepy], ids=["fusepy", "mfusepy"])
def api(request: pytest.FixtureRequest) -> Api:
    return request.param


@pytest.fixture
def shelf(api: Api) -> Shelf:
    return FusepyShelf() if api is fusepy else MfusepyShelf()


def served(api: Api, operations: Any, raw_fi: bool = False, **options: Any) -> PathServer:
    """What `FUSE(...)` makes of its arguments, in the absence of a mount."""
    encoding = options.pop("encoding", "utf-8")
    settings = parse(options, api.FUSE.dialect.libfuse)
    return PathServer(
        operations, settings, dialect=api.FUSE.dialect, raw_fi=raw_fi, encoding=encoding
    )


def used(api: Api, operations: Any, raw_fi: bool = False, **options: Any) -> LocalFileSystem:
    return puffs.local(served(api, operations, raw_fi, **options))


def code_of(call: Callable[..., object], *args: Any) -> int | None:
    """The errno that a call fails with."""
    with pytest.raises(OSError) as failed:
        call(*args)
    return failed.value.errno


# -------------------------------------------------------------------------------------- every file


def test_files_are_made_written_read_and_removed(api: Api, shelf: Shelf) -> None:
    with used(api, shelf) as vfs:
        vfs.mkdir("/d")
        vfs.write_bytes("/d/f", b"text")
        vfs.symlink("f", "/d/l")
        vfs.link("/d/f", "/d/g")
        vfs.rename("/d/g", "/d/h")
        assert sorted(vfs.listdir("/d")) == ["f", "h", "l"]
        assert (vfs.read_bytes("/d/h"), vfs.readlink("/d/l")) == (b"text", "f")
        for name in ("f", "h", "l"):
            vfs.unlink(f"/d/{name}")
        vfs.rmdir("/d")
        assert vfs.listdir("/") == []
    assert shelf.calls_of("symlink", "link", "rename") == [
        ("symlink", "/d/l", "f"),
        ("link", "/d/g", "/d/f"),
        ("rename", "/d/g", "/d/h"),
    ]


def test_modes_come_as_libfuse_gives_them(api: Api, shelf: Shelf) -> None:
    """Of a directory without its type, of all else with it."""
    with used(api, shelf) as vfs:
        vfs.mkdir("/d", 0o700)
        vfs.write_bytes("/f", b"")
        vfs.chmod("/f", 0o600)
        assert stat.S_IMODE(vfs.stat("/f").st_mode) == 0o600
    (mkdir,) = shelf.calls_of("mkdir")
    (create,) = shelf.calls_of("create")
    assert mkdir[2] == 0o700
    assert stat.S_ISREG(create[2])
    assert shelf.calls_of("chmod") == [("chmod", "/f", stat.S_IFREG | 0o600)]


def test_chown_gets_minus_one_for_what_stays(api: Api, shelf: Shelf) -> None:
    with used(api, shelf) as vfs:
        vfs.chown("/", 5, -1)
        vfs.chown("/", -1, 6)
    assert shelf.calls_of("chown") == [("chown", "/", 5, -1), ("chown", "/", -1, 6)]


def test_a_file_that_was_made_is_looked_at_by_its_handle(api: Api, shelf: Shelf) -> None:
    with used(api, shelf) as vfs:
        vfs.write_bytes("/f", b"")
    names = [call[0] for call in shelf.asked]
    at = names.index("create")
    assert shelf.asked[at + 1] == ("getattr", "/f", 7)


def test_a_regular_file_of_mknod_is_created_and_closed(api: Api, shelf: Shelf) -> None:
    """As libfuse does where there is `create`."""
    with used(api, shelf) as vfs:
        vfs.mknod("/f", stat.S_IFREG | 0o644)
        vfs.mknod("/p", stat.S_IFIFO | 0o644)
    assert [call[0] for call in shelf.calls_of("create", "release", "mknod")] == [
        "create",
        "release",
        "mknod",
    ]


def test_utimens_gets_real_times_and_what_is_left_as_it_is(api: Api, shelf: Shelf) -> None:
    with used(api, shelf) as vfs:
        vfs.write_bytes("/f", b"")
        vfs.utime("/f", ns=(1_000_000_001, 2_000_000_002))
        assert vfs.stat("/f").st_mtime_ns == 2_000_000_002
    assert shelf.calls_of("utimens")[-1] == ("utimens", "/f", (1_000_000_001, 2_000_000_002))


def test_without_use_ns_times_are_seconds(api: Api, shelf: Shelf) -> None:
    shelf.use_ns = False
    with used(api, shelf) as vfs:
        vfs.write_bytes("/f", b"")
        vfs.utime("/f", ns=(1_500_000_000, 2_250_000_000))
        assert vfs.stat("/f").st_mtime_ns == 2_250_000_000
    assert shelf.calls_of("utimens")[-1] == ("utimens", "/f", (1.5, 2.25))


def test_attributes_that_are_not_told_are_zero(api: Api, shelf: Shelf) -> None:
    shelf.files["/f"] = {"st_mode": stat.S_IFREG | 0o644, "st_uid": -1, "st_ctime": -5}
    shelf.data["/f"] = bytearray(3)
    with used(api, shelf) as vfs:
        st = vfs.stat("/f")
    assert (st.st_nlink, st.st_blocks, st.st_mtime_ns, st.st_size) == (0, 0, 0, 3)
    assert (st.st_uid, st.st_ctime_ns) == (0xFFFFFFFF, -5)


def test_inode_numbers_of_the_program_count_with_use_ino(api: Api, shelf: Shelf) -> None:
    shelf.files["/f"] = {"st_mode": stat.S_IFREG, "st_ino": 4711}
    with used(api, shelf) as vfs:
        assert vfs.stat("/f").st_ino != 4711
    with used(api, shelf, use_ino=True) as vfs:
        assert vfs.stat("/f").st_ino == 4711


def test_owner_and_mask_of_the_options(api: Api, shelf: Shelf) -> None:
    with used(api, shelf, uid=5, gid=6, umask="077") as vfs:
        st = vfs.stat("/")
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (5, 6, 0o700)


# ------------------------------------------------------------------------------------------ errors


class _Failing:
    """`getattr` of "/f" finds a file; `unlink` does what a test says."""

    use_ns = True

    def __init__(self, result: Any) -> None:
        self.result = result

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        kind = stat.S_IFDIR if path == "/" else stat.S_IFREG
        return {"st_mode": kind | 0o755, "st_nlink": 1}

    def unlink(self, path: str) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class _FusepyFailing(_Failing, fusepy.Operations):
    pass


class _MfusepyFailing(_Failing, mfusepy.Operations):
    pass


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (-EACCES, EACCES),
        (EACCES, ERANGE),
        (fusepy.FuseOSError(EACCES), EACCES),
        (PermissionError(EACCES, "no"), EACCES),
        (OSError(-EACCES, "no"), EINVAL),
        (OSError("no errno"), EINVAL),
        (ValueError("no"), EINVAL),
        (NotImplementedError("no"), EINVAL),
        (SystemExit(3), errno.EFAULT),
    ],
    ids=repr,
)
def test_what_a_caller_gets(api: Api, result: Any, code: int) -> None:
    server = served(api, _FusepyFailing(result) if api is fusepy else _MfusepyFailing(result))
    with puffs.local(server) as vfs:
        assert code_of(vfs.unlink, "/f") == code
    assert isinstance(server.failures.critical, SystemExit) == isinstance(result, SystemExit)


@pytest.mark.parametrize("result", [None, 0, False, "", "done"])
def test_what_is_no_error(api: Api, result: Any) -> None:
    with used(api, _FusepyFailing(result) if api is fusepy else _MfusepyFailing(result)) as vfs:
        vfs.unlink("/f")


def test_a_mistake_of_the_program_is_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    result = ZeroDivisionError("of mine")
    with used(api, _FusepyFailing(result) if api is fusepy else _MfusepyFailing(result)) as vfs:
        assert code_of(vfs.unlink, "/f") == EINVAL
    (record,) = [each for each in caplog.records if each.name == "fuse"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is result


def _bare(api: Api) -> Any:
    """A program that defines nothing."""
    return api.Operations()


_CHANGES: list[tuple[str, Callable[[LocalFileSystem], object]]] = [
    ("mkdir", lambda vfs: vfs.mkdir("/d")),
    ("unlink", lambda vfs: vfs.unlink("/f")),
    ("rename", lambda vfs: vfs.rename("/f", "/g")),
    ("symlink", lambda vfs: vfs.symlink("x", "/l")),
    ("chmod", lambda vfs: vfs.chmod("/", 0o700)),
    ("chown", lambda vfs: vfs.chown("/", 1, 1)),
    ("truncate", lambda vfs: vfs.truncate("/f", 0)),
]


@pytest.mark.parametrize(("name", "change"), _CHANGES, ids=[name for name, _ in _CHANGES])
def test_changes_that_are_not_defined(
    api: Api, name: str, change: Callable[[LocalFileSystem], object]
) -> None:
    """fusepy has a default for them, mfusepy has none."""
    operations = _bare(api)
    operations.getattr = _Failing(None).getattr
    if name in ("mkdir", "symlink"):
        operations.getattr = api.Operations().getattr
    with used(api, operations) as vfs:
        assert code_of(change, vfs) == (EROFS if api is fusepy else ENOSYS)


def test_defaults_of_a_program_that_defines_nothing(api: Api) -> None:
    with used(api, _bare(api)) as vfs:
        assert stat.S_ISDIR(vfs.stat("/").st_mode)
        assert code_of(vfs.stat, "/x") == ENOENT
        if api is fusepy:
            assert vfs.listdir("/") == []
            vfs.utime("/", ns=(1, 1))
        else:
            assert code_of(vfs.listdir, "/") == ENOSYS


def test_a_mode_without_a_type_is_an_error(api: Api, shelf: Shelf) -> None:
    shelf.files["/f"] = {"st_mode": 0o644}
    with used(api, shelf) as vfs:
        assert code_of(vfs.stat, "/f") == EIO


def test_open_has_to_return_a_number(api: Api, shelf: Shelf) -> None:
    shelf.files["/f"] = {"st_mode": stat.S_IFREG | 0o644}
    shelf.open = lambda path, flags: None  # type: ignore[assignment,method-assign,return-value]
    with used(api, shelf) as vfs:
        assert code_of(vfs.open, "/f", "rb") == EINVAL


def test_handles_have_64_bits_without_a_sign(api: Api, shelf: Shelf) -> None:
    shelf.files["/f"] = {"st_mode": stat.S_IFREG | 0o644, "st_size": 1}
    shelf.open = lambda path, flags: -1  # type: ignore[method-assign]
    shelf.open_files[(1 << 64) - 1] = bytearray(b"x")
    with used(api, shelf) as vfs:
        assert vfs.read_bytes("/f") == b"x"


def test_a_read_that_returns_too_much_is_an_error(api: Api, shelf: Shelf) -> None:
    shelf.files["/f"], shelf.data["/f"] = {"st_mode": stat.S_IFREG | 0o644}, bytearray(b"four")
    shelf.read = lambda path, size, offset, fh: bytes(size + 1)  # type: ignore[method-assign]
    with used(api, shelf) as vfs, vfs.open("/f", "rb", buffering=0) as file:
        assert code_of(file.read, 2) == EINVAL


# ------------------------------------------------------------------------------------ hidden files


def test_an_open_file_that_is_removed_is_hidden_until_it_is_closed(api: Api, shelf: Shelf) -> None:
    with used(api, shelf) as vfs:
        vfs.write_bytes("/f", b"text")
        with vfs.open("/f", "r+b", buffering=0) as file:
            vfs.unlink("/f")
            (hidden,) = [path for path in shelf.files if path != "/"]
            assert hidden.startswith("/.fuse_hidden")
            assert vfs.listdir("/") == [hidden[1:]]
            file.seek(4)
            file.write(b"more")
            file.seek(0)
            assert file.read(8) == b"textmore"
            shelf.asked.clear()
        assert list(shelf.files) == ["/"]
        assert [call[0] for call in shelf.calls_of("release", "unlink")] == ["release", "unlink"]


def test_an_open_file_that_is_replaced_is_hidden_until_it_is_closed(api: Api, shelf: Shelf) -> None:
    with used(api, shelf) as vfs:
        vfs.write_bytes("/old", b"old")
        vfs.write_bytes("/new", b"new")
        with vfs.open("/old", "rb") as file:
            vfs.rename("/new", "/old")
            assert file.read() == b"old"
            assert len(shelf.files) == 3
        assert sorted(shelf.files) == ["/", "/old"]
        assert vfs.read_bytes("/old") == b"new"


def test_a_file_that_nobody_has_open_is_removed_at_once(api: Api, shelf: Shelf) -> None:
    with used(api, shelf) as vfs:
        vfs.write_bytes("/f", b"")
        vfs.unlink("/f")
    assert shelf.calls_of("rename") == []


def test_a_file_that_has_another_name_is_not_hidden(api: Api, shelf: Shelf) -> None:
    with used(api, shelf) as vfs:
        vfs.write_bytes("/f", b"text")
        with vfs.open("/f", "rb") as file:
            vfs.link("/f", "/g")
            vfs.unlink("/f")
            assert sorted(shelf.files) == ["/", "/g"]
            assert file.read() == b"text"


def test_with_hard_remove_a_file_without_a_name_has_no_path(api: Api, shelf: Shelf) -> None:
    with used(api, shelf, hard_remove=True) as vfs:
        vfs.write_bytes("/f", b"text")
        with vfs.open("/f", "rb") as file:
            vfs.unlink("/f")
            assert list(shelf.files) == ["/"]
            shelf.asked.clear()
            assert file.read() == b"text"
        assert shelf.calls_of("read")[0][1] is None
        assert shelf.calls_of("release")[0][1] is None


# ---------------------------------------------------------------------------------------- listings


def _listing(api: Api, items: list[Any], **options: Any) -> list[Any]:
    """What is found of what `readdir` gives."""

    class Listed(api.Operations):  # type: ignore[misc]
        use_ns = True

        def readdir(self, path: str, fh: int) -> list[Any]:
            return items

        def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
            kind = stat.S_IFDIR if path == "/" else stat.S_IFREG
            return {"st_mode": kind | 0o700, "st_nlink": 3}

    with used(api, Listed(), **options) as vfs:
        return sorted((entry.name, entry.is_dir()) for entry in vfs.scandir("/"))


def test_listings_may_tell_attributes(api: Api) -> None:
    whole = {
        "st_mode": stat.S_IFDIR | 0o755,
        "st_nlink": 2,
        "st_size": 0,
        "st_uid": 1,
        "st_gid": 1,
        "st_atime": 0,
        "st_mtime": 0,
        "st_ctime": 0,
    }
    items = [".", "..", "a", ("b", {"st_mode": stat.S_IFDIR}, 0), ("c", None, 0), ("d", whole, 0)]
    assert _listing(api, items) == [("a", False), ("b", True), ("c", False), ("d", True)]


def test_offsets_of_a_plain_listing_mean_nothing(api: Api) -> None:
    items = [("a", None, 5), ("b", None, 5), "c"]
    assert [name for name, _ in _listing(api, items)] == ["a", "b", "c"]


def test_mfusepy_takes_modes_in_listings() -> None:
    assert _listing(mfusepy, [("a", stat.S_IFDIR, 0)]) == [("a", True)]


def test_a_listing_from_an_offset_goes_on_where_it_was() -> None:
    asked = []

    class Long(mfusepy.Operations):
        use_ns = True

        def readdir_with_offset(self, path: str, offset: int, fh: int) -> mfusepy.ReadDirResult:
            asked.append(offset)
            for number in range(offset, 10_000):
                yield f"name{number:06}", stat.S_IFREG, number + 1

    with used(mfusepy, Long()) as vfs:
        assert vfs.listdir("/") == [f"name{number:06}" for number in range(10_000)]
    assert asked[0] == 0


# ------------------------------------------------------------------------------------------- names


def test_names_that_are_no_utf_8_are_escaped(api: Api, shelf: Shelf) -> None:
    name = os.fsdecode(b"/caf\xe9")
    with used(api, shelf) as vfs:
        vfs.write_bytes(name, b"")
        assert vfs.listdir("/") == [name[1:]]
    assert name in shelf.files


def test_an_encoding_that_there_is_not_is_told_at_once(api: Api, shelf: Shelf) -> None:
    with pytest.raises(LookupError, match="unknown encoding: nonsense"):
        api.FUSE(shelf, "/there is no such place", encoding="nonsense")


def test_another_encoding(api: Api, shelf: Shelf) -> None:
    outside = os.fsdecode("café".encode("latin-1"))
    with used(api, shelf, encoding="latin-1") as vfs:
        vfs.write_bytes(f"/{outside}", b"text")
        assert "/café" in shelf.files
        assert vfs.listdir("/") == [outside]
        vfs.rename(f"/{outside}", "/plain")
        vfs.symlink(outside, "/l")
        assert vfs.readlink("/l") == outside
    assert shelf.data["/l"] == "café".encode()


def test_a_module_of_libfuse_shows_a_directory(api: Api, shelf: Shelf) -> None:
    shelf.mkdir("/sub", 0o755)
    with used(api, shelf, modules="subdir", subdir="/sub") as vfs:
        vfs.write_bytes("/f", b"")
        assert vfs.listdir("/") == ["f"]
    assert "/sub/f" in shelf.files


# ------------------------------------------------------------------------------- open files, raw_fi


def _raw(api: Api) -> Any:
    class Raw(FusepyShelf if api is fusepy else MfusepyShelf):  # type: ignore[misc]
        def open(self, path: str, fi: Any) -> int:
            fi.fh = super().open(path, fi.flags)
            fi.direct_io = 1
            return 0

        def create(self, path: str, mode: int, fi: Any) -> int:
            fi.fh = super().create(path, mode)
            return 0

        def read(self, path: str, size: int, offset: int, fi: Any) -> bytes:
            data: bytes = super().read(path, size, offset, fi.fh)
            return data

        def write(self, path: str, data: bytes, offset: int, fi: Any) -> int:
            written: int = super().write(path, data, offset, fi.fh)
            return written

        def flush(self, path: str, fi: Any) -> int:
            self.asked.append(("flush", fi.fh, fi.flush))
            return 0

    return Raw()


def test_raw_fi(api: Api) -> None:
    shelf = _raw(api)
    with used(api, shelf, raw_fi=True) as vfs:
        vfs.write_bytes("/f", b"text")
        assert vfs.read_bytes("/f") == b"text"
        assert vfs.stat("/f").st_size == 4
    (opened,) = shelf.calls_of("open")
    assert opened[2] & os.O_ACCMODE == os.O_RDONLY
    assert shelf.calls_of("flush")[0] == ("flush", 7, 1)
    assert [type(call[2]) for call in shelf.calls_of("release")] == [api.fuse_file_info] * 2


def test_create_may_take_flags_in_mfusepy() -> None:
    class Flags(MfusepyShelf):
        def create(self, path: str, mode: int, fi: Any = None) -> int:
            self.asked.append(("flags", fi))
            return super().create(path, mode)

    shelf = Flags()
    with used(mfusepy, shelf) as vfs:
        vfs.write_bytes("/f", b"")
    ((_, flags),) = shelf.calls_of("flags")
    assert flags & os.O_ACCMODE == os.O_WRONLY
    assert flags & os.O_CREAT


# ------------------------------------------------------------------------- the program as a whole


def test_init_and_destroy(api: Api) -> None:
    class Whole(api.Operations):  # type: ignore[misc]
        def __init__(self) -> None:
            self.told: list[tuple[str, str]] = []

        def init(self, path: str) -> None:
            self.told.append(("init", path))

        def destroy(self, path: str) -> None:
            self.told.append(("destroy", path))

        def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
            self.told.append(("getattr", path))
            attributes: dict[str, Any] = super().getattr(path, fh)
            return attributes

    program = Whole()
    with used(api, program) as vfs:
        vfs.stat("/")
    assert program.told[0] == ("init", "/")
    assert program.told[-1] == ("destroy", "/")
    assert ("getattr", "/") in program.told


def test_what_init_raises_ends_it(api: Api) -> None:
    class Whole(api.Operations):  # type: ignore[misc]
        def init(self, path: str) -> None:
            raise ValueError("no database")

    server = served(api, Whole())
    with puffs.local(server):
        pass
    assert isinstance(server.failures.critical, ValueError)


def test_truncate_without_a_place_for_the_handle_is_called_without(api: Api) -> None:
    shelf = (FusepyShelf if api is fusepy else MfusepyShelf)()
    truncate = shelf.truncate
    vars(shelf)["truncate"] = lambda path, length: truncate(path, length)
    with used(api, shelf) as vfs:
        vfs.write_bytes("/f", b"text")
        with vfs.open("/f", "r+b") as file:
            file.truncate(2)
        assert vfs.read_bytes("/f") == b"te"


def test_init_with_config_may_change_the_options() -> None:
    class Configured(MfusepyShelf):
        def init_with_config(
            self, conn_info: mfusepy.fuse_conn_info | None, config_3: mfusepy.fuse_config | None
        ) -> None:
            assert conn_info is not None
            assert config_3 is not None
            self.asked.append(("config", config_3.attr_timeout, config_3.use_ino))
            config_3.use_ino = 1
            config_3.set_uid, config_3.uid = 1, 77

    shelf = Configured()
    shelf.files["/f"] = {"st_mode": stat.S_IFREG, "st_ino": 4711}
    with used(mfusepy, shelf, attr_timeout=2.5) as vfs:
        st = vfs.stat("/f")
    assert (st.st_ino, st.st_uid) == (4711, 77)
    assert shelf.calls_of("config") == [("config", 2.5, 0)]


def test_what_init_with_config_asks_for_in_vain_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Configured(MfusepyShelf):
        def init_with_config(
            self, conn_info: mfusepy.fuse_conn_info | None, config_3: mfusepy.fuse_config | None
        ) -> None:
            assert config_3 is not None
            config_3.remember, config_3.dmask = 60, 0o027

    shelf = Configured()
    with used(mfusepy, shelf) as vfs:
        assert stat.S_IMODE(vfs.stat("/").st_mode) == 0o750
    assert "remember" in caplog.text


def test_what_init_with_config_sets_too_late_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Configured(mfusepy.Operations):
        def init_with_config(
            self, conn_info: mfusepy.fuse_conn_info | None, config_3: mfusepy.fuse_config | None
        ) -> None:
            assert conn_info is not None
            conn_info.max_readahead = 1

    with used(mfusepy, Configured()):
        pass
    assert "fuse_conn_info" in caplog.text


def test_every_operation_goes_through_call_in_fusepy() -> None:
    class Below(FusepyShelf):
        def __call__(self, op: str, path: str, *args: Any) -> Any:
            return super().__call__(op, f"/below{path}".rstrip("/"), *args)

    shelf = Below()
    shelf.mkdir("/below", 0o755)
    with used(fusepy, shelf) as vfs:
        vfs.write_bytes("/f", b"text")
        assert vfs.read_bytes("/f") == b"text"
    assert "/below/f" in shelf.files


def test_logging_mixin(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    base = FusepyShelf if api is fusepy else MfusepyShelf

    class Logged(api.LoggingMixIn, base):  # type: ignore[misc,valid-type]
        pass

    caplog.set_level(logging.DEBUG, "fuse.log-mixin")
    with used(api, Logged()) as vfs:
        vfs.mkdir("/d", 0o755)
    lines = [record.getMessage() for record in caplog.records if record.name == "fuse.log-mixin"]
    assert any(line.startswith("-> mkdir") and "/d" in line for line in lines)
    assert "<- mkdir 0" in lines


def test_log_callback_and_overrides_of_mfusepy(caplog: pytest.LogCaptureFixture) -> None:
    class Decorated(mfusepy.Operations):
        use_ns = True

        @mfusepy.log_callback
        @mfusepy.overrides(mfusepy.Operations)
        def readdir(self, path: str, fh: int) -> mfusepy.ReadDirResult:
            return ["a"]

    caplog.set_level(logging.DEBUG, "fuse.log-mixin")
    with used(mfusepy, Decorated()) as vfs:
        assert vfs.listdir("/") == ["a"]
    assert "-> readdir" in caplog.text
    with pytest.raises(AssertionError, match="nonsense"):

        class Wrong(mfusepy.Operations):
            @mfusepy.overrides(mfusepy.Operations)
            def nonsense(self) -> None: ...


def test_context_outside_of_operations(api: Api) -> None:
    assert api.fuse_get_context() == (0, 0, 0)


def test_context_in_an_operation(api: Api, shelf: Shelf) -> None:
    seen = []
    shelf.chmod = lambda path, mode: seen.append(api.fuse_get_context()) or 0  # type: ignore
    with used(api, shelf) as vfs:
        vfs.chmod("/", 0o700)
    assert seen == [(os.geteuid(), os.getegid(), threading.get_native_id())]


def test_extended_attributes(api: Api) -> None:
    class Kept(api.Operations):  # type: ignore[misc]
        kept: dict[str, bytes] = {}  # noqa: RUF012

        def setxattr(
            self, path: str, name: str, value: bytes, options: int, position: int = 0
        ) -> int:
            assert position == 0
            self.kept[name] = value
            return 0

        def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
            assert position == 0
            if name not in self.kept:
                raise api.FuseOSError(errno.ENODATA)
            return self.kept[name]

        def listxattr(self, path: str) -> list[str]:
            return list(self.kept)

        def removexattr(self, path: str, name: str) -> int:
            del self.kept[name]
            return 0

    with used(api, Kept()) as vfs:
        vfs.setxattr("/", "user.a", b"\0value")
        assert vfs.getxattr("/", "user.a") == b"\0value"
        assert vfs.listxattr("/") == ["user.a"]
        vfs.removexattr("/", "user.a")
        assert code_of(vfs.getxattr, "/", "user.a") == errno.ENODATA


@pytest.mark.parametrize("told", [os.statvfs("/"), {"f_bfree": 1.5}, None, "nonsense"])
def test_what_statfs_may_not_tell_is_the_mistake_of_the_program(
    api: Api, shelf: Shelf, told: object, caplog: pytest.LogCaptureFixture
) -> None:
    vars(shelf)["statfs"] = lambda path: told
    with used(api, shelf) as vfs:
        assert code_of(vfs.statvfs, "/") == EINVAL
    assert "operation statfs failed" in caplog.text


def test_sizes_below_0_are_as_in_c(api: Api, shelf: Shelf) -> None:
    vars(shelf)["statfs"] = lambda path: {"f_bsize": 512, "f_bfree": -1, "f_blocks": 10}
    with used(api, shelf) as vfs:
        told = vfs.statvfs("/")
    assert (told.f_frsize, told.f_blocks, told.f_bfree) == (512, 10, 2**64 - 1)


def test_no_text_for_an_extended_attribute_is_an_empty_one(api: Api, shelf: Shelf) -> None:
    vars(shelf)["getxattr"] = lambda path, name, position=0: "" if name == "user.a" else None
    with used(api, shelf) as vfs:
        assert vfs.getxattr("/", "user.a") == b""
        assert code_of(vfs.getxattr, "/", "user.b") == errno.EPROTO


def test_renames_with_flags_are_refused(api: Api, shelf: Shelf) -> None:
    """Neither library can tell the program of them, and an exchange is no plain rename."""
    operations = served(api, shelf).operations()
    root = operations["mount"]()
    names = (root, "f", root, "g", puffs.RENAME_EXCHANGE)
    assert code_of(operations["rename"], *names, Cred.current()) == EINVAL
    assert shelf.calls_of("rename") == []
