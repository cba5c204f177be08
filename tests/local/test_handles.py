"""Handles in process: `name_to_handle` and `open_by_handle`."""

from errno import E2BIG, EEXIST, EINVAL, EISDIR, ELOOP, ENXIO, EOPNOTSUPP, EPERM, ESTALE
from pathlib import Path

import pytest

import puffs
from puffs.fs.mem import MemFS
from puffs.fs.null import NullFS
from puffs.kernel.args import FHSIZE_MAX
from puffs.kernel.handles import HandleTooLong
from tests.fs.host import make_many, opens_handles
from tests.kernel.little import fails

SUPERUSER = puffs.Cred(0, 0, groups=())
USER = puffs.Cred(1000, 1000, groups=())


class Long(MemFS):
    """Its handles have `length` bytes."""

    fhsize = FHSIZE_MAX
    fhflags = puffs.FHFLAG_DYNAMIC

    def __init__(self, length: int = FHSIZE_MAX) -> None:
        super().__init__()
        self.length = length

    def nodetofh(self, node: object) -> bytes:
        return super().nodetofh(node).ljust(self.length, b"\xaa")  # type: ignore[arg-type]

    def fhtonode(self, fid: bytes) -> object:  # type: ignore[override]
        assert len(fid) == self.length
        return super().fhtonode(fid[: MemFS.fhsize])


def test_a_file_is_opened_by_its_handle_under_any_name() -> None:
    with puffs.local(MemFS, cred=SUPERUSER) as vfs:
        vfs.makedirs("/a/b")
        vfs.write_text("/a/b/file", "contents")
        handle = vfs.name_to_handle("/a/b/file")
        vfs.rename("/a/b/file", "/moved")
        vfs.rmdir("/a/b")
        with vfs.open_by_handle(handle) as stream:
            assert stream.read() == "contents"
        assert vfs.name_to_handle("/moved") == handle
        with vfs.open_by_handle(handle, "ab") as stream:
            stream.write(b" and more")
        assert vfs.read_text("/moved") == "contents and more"
        with vfs.open_by_handle(handle, "w") as stream:
            stream.write("new")
        assert vfs.read_text("/moved") == "new"
        vfs.remove("/moved")
        with fails(ESTALE):
            vfs.open_by_handle(handle)
        assert len(vfs.mount.vnodes) == 1, "nothing was left counted"


def test_what_is_no_regular_file_is_not_opened() -> None:
    with puffs.local(MemFS, cred=SUPERUSER) as vfs:
        vfs.mkdir("/dir")
        vfs.symlink("dir", "/link")
        vfs.mkfifo("/fifo")
        for path, code in (("/dir", EISDIR), ("/link", ELOOP), ("/fifo", ENXIO)):
            handle = vfs.name_to_handle(path, follow_symlinks=False)
            with fails(code):
                vfs.open_by_handle(handle)
        assert vfs.name_to_handle("/link") == vfs.name_to_handle("/dir")
        assert len(vfs.mount.vnodes) == 1


def test_a_handle_makes_no_file() -> None:
    with puffs.local(MemFS, cred=SUPERUSER) as vfs:
        vfs.write_text("/file", "contents")
        with fails(EEXIST):
            vfs.open_by_handle(vfs.name_to_handle("/file"), "x")


def test_a_handle_leads_past_directories_and_is_for_the_superuser() -> None:
    mount = puffs.Mount(MemFS())
    mount.start()
    with puffs.local(mount, cred=SUPERUSER) as vfs, puffs.local(mount, cred=USER) as user:
        vfs.mkdir("/closed", 0o700)
        vfs.write_text("/closed/file", "contents")
        vfs.write_text("/open", "contents")
        with fails(EPERM):
            user.open_by_handle(vfs.name_to_handle("/closed/file"))
        assert user.name_to_handle("/open") == vfs.name_to_handle("/open")
        with pytest.raises(PermissionError):
            user.name_to_handle("/closed/file")


@pytest.mark.statement("H2", "H6")
def test_the_size_of_a_handle_is_told_to_who_has_no_room() -> None:
    for server in (MemFS, Long):
        with puffs.local(server) as vfs:
            for room in (0, server.fhsize - 1):
                with pytest.raises(HandleTooLong) as caught:
                    vfs.name_to_handle("/", room)
                assert (caught.value.errno, caught.value.size) == (E2BIG, server.fhsize)
                assert caught.value.filename == "/"
            assert len(vfs.name_to_handle("/", server.fhsize)) == server.fhsize


@pytest.mark.statement("H7", "F3")
def test_long_handles_of_any_length() -> None:
    for length in (MemFS.fhsize, 500, FHSIZE_MAX):
        with puffs.local(Long(length), cred=SUPERUSER) as vfs:
            vfs.write_text("/file", "contents")
            handle = vfs.name_to_handle("/file")
            assert len(handle) == length
            assert vfs.open_by_handle(handle).read() == "contents"


def test_where_there_are_no_handles() -> None:
    with puffs.local(puffs.Tree({"file": "contents"}), cred=SUPERUSER) as vfs:
        with fails(EOPNOTSUPP):
            vfs.name_to_handle("/file")
        with fails(EOPNOTSUPP):
            vfs.open_by_handle(b"12345678")
    with puffs.local(MemFS, cred=SUPERUSER) as vfs, fails(EINVAL):
        vfs.open_by_handle(b"12345678")


@opens_handles
def test_handles_of_null_outlive_the_file_server(tmp_path: Path) -> None:
    paths = make_many(tmp_path, 1000)
    with puffs.local(NullFS(tmp_path)) as vfs:
        handles = {path: vfs.name_to_handle(path) for path in paths}
    gone = {path: handles.pop(path) for path in paths[::10]}
    for path in gone:
        (tmp_path / path).unlink()
    with puffs.local(NullFS(tmp_path)) as vfs:
        for path, handle in handles.items():
            with vfs.open_by_handle(handle) as stream:
                assert stream.read() == path
        for handle in gone.values():
            with fails(ESTALE):
                vfs.open_by_handle(handle)
