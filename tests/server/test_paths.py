"""`PathFileSystem`: which paths a file server is given, by the operations that a host calls."""

import errno
import gc
import os
import stat
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import puffs
from puffs.kernel.mount import Mount
from puffs.server.operations import OPERATIONS
from puffs.server.path_mount import PathMount
from tests.server.shelf import CRED, DIR, FILE, File, Host, Shelf, fails


@pytest.fixture(autouse=True, params=[False, True], ids=["def", "async def"])
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is true of operations that do not wait is true of others."""
    monkeypatch.setattr(Host, "waits", request.param)


# ------------------------------------------------------------------------------ what is implemented


def test_operations_are_what_the_class_defines() -> None:
    class Little(puffs.PathFileSystem):
        def getattr(self, path: str, file: Any = None) -> puffs.Attr:
            raise FileNotFoundError

        def statvfs(self) -> puffs.StatVfs:
            return puffs.StatVfs(blocks=7)

    assert sorted(Little().operations()) == ["getattr", "lookup", "mount", "statvfs"]
    assert Little().operations()["statvfs"]().blocks == 7
    opening = {"open", "close"}  # `close` comes with `open`, to know what is still open

    class Opens(Little):
        def open(self, path: str, flags: int, cred: puffs.Cred) -> object:
            return None

    assert Opens().operations().keys() - Little().operations().keys() == opening


F, D = "/d/f", "/d"
HANDED_ON: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    # operation: what a host gives, where F and D stand for nodes; what the class is given
    "unmount": ((True,), (True,)),
    "unmounted": ((), ()),
    "statvfs": ((), ()),
    "sync": ((True, CRED), (True, CRED)),
    "snapshot": (("/srv/x.img",), ("/srv/x.img",)),
    "create": ((D, "n", "attr", 2, CRED), ("/d/n", "attr", 2, CRED)),
    "mknod": ((D, "n", "attr", CRED), ("/d/n", "attr", CRED)),
    "mkdir": ((D, "n", "attr", CRED), ("/d/n", "attr", CRED)),
    "symlink": ((D, "n", "target", "attr", CRED), ("/d/n", "target", "attr", CRED)),
    "link": ((F, D, "n", CRED), ("/d/f", "/d/n", CRED)),
    "remove": ((D, "n", CRED), ("/d/n", CRED)),
    "rmdir": ((D, "n", CRED), ("/d/n", CRED)),
    "rename": ((D, "n", D, "m", 1, CRED), ("/d/n", "/d/m", 1, CRED)),
    "readdir": ((D, 0, "file"), ("/d", 0, "file")),
    "readlink": ((F,), ("/d/f",)),
    "open": ((F, 2, CRED), ("/d/f", 2, CRED)),
    "close": ((F, "file", 2), ("/d/f", "file", 2)),
    "flush": ((F, "file", 7), ("/d/f", "file", 7)),
    "fsync": ((F, True, "file"), ("/d/f", True, "file")),
    "read": ((F, 3, 10, "file"), ("/d/f", 3, 10, "file")),
    "write": ((F, 3, b"data", "file"), ("/d/f", 3, b"data", "file")),
    "seek": ((F, 3, os.SEEK_HOLE, "file"), ("/d/f", 3, os.SEEK_HOLE, "file")),
    "fallocate": ((F, 1, 3, 10, "file"), ("/d/f", 1, 3, 10, "file")),
    "copy_file_range": (
        (F, 1, "file", D, 2, "to_file", 10, 0),
        ("/d/f", 1, "file", "/d", 2, "to_file", 10, 0),
    ),
    "getattr": ((F, "file"), ("/d/f", "file")),
    "setattr": ((F, "changes", "file", CRED), ("/d/f", "changes", "file", CRED)),
    "access": ((F, os.R_OK, CRED), ("/d/f", os.R_OK, CRED)),
    "getxattr": ((F, "user.x"), ("/d/f", "user.x")),
    "setxattr": ((F, "user.x", b"value", 0), ("/d/f", "user.x", b"value", 0)),
    "listxattr": ((F,), ("/d/f",)),
    "removexattr": ((F, "user.x"), ("/d/f", "user.x")),
    "opendir": ((D, CRED), ("/d", CRED)),
    "closedir": ((D, "file"), ("/d", "file")),
    "fsyncdir": ((D, False, "file"), ("/d", False, "file")),
    "advlock": ((F, "set", "lock", 7, "file"), ("/d/f", "set", "lock", 7, "file")),
    "poll": ((F, 1, "file", None), ("/d/f", 1, "file", None)),
    "ioctl": ((F, 5, b"in", 8, "file", CRED), ("/d/f", 5, b"in", 8, "file", CRED)),
    "suspend": ((1,), (1,)),
    "error": (("KIND", 5, "text", F), ("KIND", 5, "text", "/d/f")),
}


def test_the_table_has_every_operation_of_paths() -> None:
    public = {name for name in vars(puffs.PathFileSystem) if name in OPERATIONS}
    assert HANDED_ON.keys() == public - {"mount", "mounted"}


@pytest.mark.parametrize("operation", HANDED_ON)
def test_the_class_is_given_paths_and_all_else_as_it_came(operation: str) -> None:
    given, expected = HANDED_ON[operation]
    seen: list[tuple[Any, ...]] = []

    def method(self: object, *args: Any) -> Any:
        if operation != "getattr" or args[1] is not None:  # not the lookups below
            seen.append(args)
        return puffs.Attr(DIR) if operation == "getattr" else ["reply"]

    host = Host(type("Recorder", (Shelf,), {operation: method})("/d/", "/d/f"))
    reply = host(operation, *(host.node(each) if each in (F, D) else each for each in given))
    assert seen == [expected]
    if operation in ("readlink", "open", "flush", "seek", "ioctl", "getxattr", "opendir"):
        assert reply == ["reply"]


def test_mount_is_optional_and_called_first() -> None:
    class Mounts(Shelf):
        def mount(self) -> None:
            self.asked.append(("mount",))

    server = Mounts("/f")
    assert Host(server).ino(Host(server).root) == 1
    assert server.asked[0] == ("mount",)

    class Fails(Shelf):
        def mount(self) -> None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "no")

    with pytest.raises(ConnectionRefusedError, match="no"):
        Mount(Fails())


def test_its_mount_is_told_of_nodes_by_their_paths() -> None:
    class Watched(Shelf):
        def mounted(self, mount: PathMount) -> None:
            self.its = mount

    class Told:
        def __getattr__(self, name: str) -> Any:
            return lambda *args: (name, *args)

    server = Watched("/d/", "/d/f")
    host = Host(server)
    mount = Told()
    host("mounted", mount)
    d, f = host.node("/d"), host.node("/d/f")
    said: list[Any] = [
        server.its.invalidate_name("/d/f"),
        server.its.invalidate_name("/d/new/"),
        server.its.invalidate_name("/top"),
        server.its.invalidate_names("/d"),
        server.its.invalidate_names(),
        server.its.invalidate_attr("/d"),
        server.its.invalidate_pages("/d/f", 1, 2),
        server.its.flush_pages("/d/f"),
        server.its.store_pages("/d/f", 3, b"data"),
    ]
    assert said == [
        ("invalidate_name", d, "f"),
        ("invalidate_name", d, "new"),
        ("invalidate_name", host.root, "top"),
        ("invalidate_names", d),
        ("invalidate_names", None),
        ("invalidate_attr", d),
        ("invalidate_pages", f, 1, 2),
        ("flush_pages", f, 0, 0),
        ("store_pages", f, 3, b"data"),
    ]
    unknown: Any = server.its.invalidate_attr("/nowhere/at/all")
    assert unknown[1] not in (d, f, host.root)
    assert server.its.mount is mount


@pytest.mark.parametrize("operation", ["lookup", "fileid", "tmpfile", "reclaim", "nodetofh"])
def test_what_paths_cannot_have_is_an_error_at_once(operation: str) -> None:
    server = type("Strange", (Shelf,), {operation: lambda *args: None})()
    with pytest.raises(TypeError, match=f"Strange defines {operation}.*puffs.FileSystem"):
        server.operations()


def test_without_getattr_it_cannot_be_mounted() -> None:
    class Nothing(puffs.PathFileSystem):
        pass

    with pytest.raises(TypeError, match="Nothing lacks getattr"):
        Mount(Nothing())


# -------------------------------------------------------------------------------- names that change


def test_lookup_is_getattr_of_the_path() -> None:
    host = Host(Shelf("/a/", "/a/b"))
    entry = host("lookup", host.node("/a"), "b", CRED)
    assert (entry.attr.ino, entry.attr.mode) == (3, FILE)
    assert host("lookup", host.node("/a"), "b", CRED).node is entry.node
    with fails(errno.ENOENT):
        host("lookup", host.root, "b", CRED)


def test_stat_results_are_welcome() -> None:
    class Real(puffs.PathFileSystem):
        def getattr(self, path: str, file: Any = None) -> Any:
            return os.stat("/")

    entry = Host(Real())("lookup", Host(Real()).root, "x", CRED)
    assert entry.attr.ino == os.stat("/").st_ino


def test_a_renamed_directory_changes_all_below_it() -> None:
    server = Shelf("/a/", "/a/b/", "/a/b/c/", "/a/b/c/f", "/x/")
    host = Host(server)
    file, inner = host.node("/a/b/c/f"), host.node("/a/b")
    opened = host("open", file, os.O_RDONLY, CRED)
    host.rename("/a/b", "/x/new")
    assert host.ino(file) == host.ino(host.node("/x/new/c/f")) == 5
    assert host.node("/x/new") is inner
    host("read", file, 0, 1, opened)
    assert server.asked[-1] == ("read", "/x/new/c/f")
    host.rename("/x", "/y")
    host("read", file, 0, 1, opened)
    assert server.asked[-1] == ("read", "/y/new/c/f")


def test_a_renamed_file_keeps_its_node() -> None:
    host = Host(Shelf("/a", "/d/"))
    node = host.node("/a")
    host.rename("/a", "/d/b")
    assert host.node("/d/b") is node
    with fails(errno.ENOENT):
        host.node("/a")


def test_a_rename_that_fails_changes_nothing() -> None:
    class Refuses(Shelf):
        def rename(self, path: str, newpath: str, flags: int, cred: puffs.Cred) -> None:
            raise PermissionError(errno.EPERM, "no")

    host = Host(Refuses("/a", "/b"))
    a, b = host.node("/a"), host.node("/b")
    with fails(errno.EPERM):
        host.rename("/a", "/b")
    assert (host.ino(a), host.ino(b)) == (2, 3)
    assert host.node("/b") is b


def test_what_a_rename_replaces_is_gone() -> None:
    host = Host(Shelf("/a", "/b"))
    a, b = host.node("/a"), host.node("/b")
    host.rename("/a", "/b")
    assert host.node("/b") is a
    with fails(errno.ESTALE):
        host.ino(b)


def test_an_exchange_swaps_what_is_below_too() -> None:
    host = Host(Shelf("/a/", "/a/f", "/b/", "/b/g"))
    a, f, b, g = (host.node(path) for path in ("/a", "/a/f", "/b", "/b/g"))
    host.rename("/a", "/b", puffs.RENAME_EXCHANGE)
    assert [host.node(path) for path in ("/b", "/b/f", "/a", "/a/g")] == [a, f, b, g]
    assert [host.ino(node) for node in (a, f, b, g)] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("path", "newpath", "flags"),
    [
        ("/a", "/a/b", 0),
        ("/a", "/a/b/c", 0),
        ("/a", "/a/b", puffs.RENAME_EXCHANGE),
        ("/a/b", "/a", puffs.RENAME_EXCHANGE),
    ],
)
def test_a_directory_is_not_moved_into_itself(path: str, newpath: str, flags: int) -> None:
    server = Shelf("/a/", "/a/b/")
    host = Host(server)
    deep = host.node("/a/b")
    with fails(errno.EINVAL):
        host.rename(path, newpath, flags)
    assert host.ino(deep) == 3
    assert all(call[0] != "rename" for call in server.asked)


# --------------------------------------------------------------------------------- what was removed


def test_a_name_that_is_made_again_is_another_file() -> None:
    host = Host(Shelf("/f"))
    old = host.node("/f")
    host("remove", host.root, "f", CRED)
    new, opened = host("create", host.root, "f", puffs.Attr(FILE), os.O_RDWR, CRED)
    assert new != old
    assert host.node("/f") is new
    host("write", new, 0, b"new", opened)
    with fails(errno.ESTALE):
        host("write", old, 0, b"lost", None)
    with fails(errno.ESTALE):
        host("open", old, os.O_RDONLY, CRED)
    assert host("read", new, 0, 10, opened) == b"new"


def test_an_open_file_that_was_removed_keeps_its_last_path_and_its_file() -> None:
    server = Shelf("/d/", "/d/f")
    host = Host(server)
    node = host.node("/d/f")
    opened = host("open", node, os.O_RDWR, CRED)
    host("remove", host.node("/d"), "f", CRED)
    host.rename("/d", "/e")
    host("create", host.node("/e"), "f", puffs.Attr(FILE), os.O_RDWR, CRED)
    assert host("write", node, 0, b"old", opened) == 3
    assert host("read", node, 0, 10, opened) == b"old"
    assert server.asked[-1] == ("read", "/d/f")
    assert host.ino(node) == host.ino(node, opened) == 3  # with and without naming the file
    host("setattr", node, puffs.Changes(mode=0o600), None, CRED)
    assert opened.mode == stat.S_IFREG | 0o600
    host("close", node, opened, os.O_RDWR)
    assert server.asked[-1] == ("close", "/d/f")
    with fails(errno.ESTALE):
        host.ino(node)


def test_each_open_file_is_remembered_until_it_is_closed() -> None:
    host = Host(Shelf("/f"))
    node = host.node("/f")
    first, second = (host("open", node, os.O_RDONLY, CRED) for _ in range(2))
    host("remove", host.root, "f", CRED)
    host("close", node, first, os.O_RDONLY)
    assert host.ino(node) == 2
    host("close", node, second, os.O_RDONLY)
    with fails(errno.ESTALE):
        host.ino(node)


def test_a_removed_directory_is_empty() -> None:
    host = Host(Shelf("/d/"))
    node = host.node("/d")
    host("rmdir", host.root, "d", CRED)
    host("mkdir", host.root, "d", puffs.Attr(DIR), CRED)
    host("create", host.node("/d"), "f", puffs.Attr(FILE), os.O_RDWR, CRED)
    assert [entry.name for entry in host("readdir", host.node("/d"), 0, None)] == ["f"]
    assert list(host("readdir", node, 0, None)) == []
    with fails(errno.ENOENT):
        host("lookup", node, "f", CRED)
    with fails(errno.ENOENT):
        host("create", node, "g", puffs.Attr(FILE), os.O_RDWR, CRED)
    with fails(errno.ESTALE):
        host.ino(node)


def test_what_vanished_behind_the_servers_back_is_another_file_when_it_comes_back() -> None:
    server = Shelf("/d/", "/d/e/", "/d/e/f")
    host = Host(server)
    d, f = host.node("/d"), host.node("/d/e/f")
    kept = dict(server.files)
    server.files = {"/": kept["/"]}
    with fails(errno.ENOENT):
        host.node("/d")
    server.files = kept
    assert host.node("/d") != d
    with fails(errno.ESTALE):
        host.ino(f)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), FileNotFoundError("no"), OSError(errno.ENOENT)], ids=repr
)
def test_every_form_of_not_found_says_that_nothing_is_there(error: OSError) -> None:
    class Loses(Shelf):
        lost = False

        def getattr(self, path: str, file: Any = None) -> puffs.Attr:
            if self.lost:
                raise error
            return super().getattr(path, file)

    server = Loses("/f")
    host = Host(server)
    old = host.node("/f")
    server.lost = True
    with pytest.raises(type(error)) as caught:
        host.node("/f")
    assert caught.value is error
    server.lost = False
    assert host.node("/f") != old


def test_errors_of_getattr_are_those_of_lookup() -> None:
    class Shut(Shelf):
        def getattr(self, path: str, file: Any = None) -> puffs.Attr:
            if path == "/f" and self.asked:
                raise PermissionError(errno.EACCES, "no")
            return super().getattr(path, file)

    host = Host(Shut("/f"))
    node = host.node("/f")
    with fails(errno.EACCES):
        host("lookup", host.root, "f", CRED)
    assert host("open", node, os.O_RDONLY, CRED).ino == 2  # it is still there


# ------------------------------------------------------------------------- making, linking, opening


@pytest.mark.parametrize("reply", [None, "file", puffs.Open("file", direct_io=True)])
def test_create_gives_a_new_node_and_what_open_would_return(reply: object) -> None:
    class Creates(Shelf):
        def create(self, path: str, attr: puffs.Attr, flags: int, cred: puffs.Cred) -> object:
            self.make(path, attr.mode)
            return reply

    host = Host(Creates())
    made = host("create", host.root, "f", puffs.Attr(FILE), os.O_RDWR, CRED)
    if reply is None:  # the kernel half calls `open` then
        assert made is host.node("/f")
    else:
        assert made == (host.node("/f"), reply)


def test_a_hard_link_is_the_same_node_and_outlives_its_first_name() -> None:
    host = Host(Shelf("/a", "/d/"))
    node = host.node("/a")
    host("link", node, host.node("/d"), "b", CRED)
    assert host.node("/d/b") is node
    host.rename("/d", "/e")
    host("remove", host.root, "a", CRED)
    assert host.node("/e/b") is node
    assert host.ino(node) == 2
    host.rename("/e/b", "/c")
    assert host.node("/c") is node
    host("remove", host.root, "c", CRED)
    with fails(errno.ESTALE):
        host.ino(node)


def test_a_renamed_hard_link_is_followed() -> None:
    server = Shelf("/a")
    host = Host(server)
    node = host.node("/a")
    host("link", node, host.root, "b", CRED)
    host.rename("/b", "/c")
    host("remove", host.root, "a", CRED)
    assert host.ino(node) == 2
    assert server.asked[-1] == ("getattr", "/c")


def test_hard_links_that_are_looked_up_are_two_nodes_of_one_inode() -> None:
    server = Shelf("/a")
    server.files["/b"] = server.files["/a"]
    host = Host(server)
    assert host.node("/a") != host.node("/b")
    assert host.ino(host.node("/a")) == host.ino(host.node("/b"))


# ------------------------------------------------------------------------------------------ readdir


def test_pairs_of_name_and_attributes_become_entries_with_nodes() -> None:
    host = Host(Shelf("/d/", "/f"))
    entries = {entry.name: entry for entry in host("readdir", host.root, 0, None)}
    assert sorted(entries) == ["d", "f"]
    for name, entry in entries.items():
        attr = host("getattr", host.node("/" + name), None)
        assert entry.entry.node is host.node("/" + name)
        assert entry.entry.attr == attr
        assert (stat.S_IFMT(entry.type), entry.ino) == (attr.type, attr.ino)


def test_names_and_entries_are_handed_on() -> None:
    class Lists(Shelf):
        def readdir(self, path: str, offset: int, file: Any) -> Any:
            own = puffs.DirEntry("f", stat.S_IFREG, 2, next=9)
            return [".", ("..", puffs.Attr(DIR)), "bare", own, ("real", os.stat("/"))][offset:]

    entries = list(Host(Lists())("readdir", Host(Lists()).root, 0, None))
    assert entries[:2] == [".", "bare"]
    assert (entries[2].name, entries[2].next) == ("f", 9)
    assert entries[3].entry.attr.ino == os.stat("/").st_ino
    assert len(entries) == 4


def test_an_entry_of_somebody_elses_node_is_refused() -> None:
    class Lists(Shelf):
        def readdir(self, path: str, offset: int, file: Any) -> Any:
            return [puffs.DirEntry("f", entry=puffs.Entry("/f"))]

    host = Host(Lists())
    with pytest.raises(TypeError, match=r"yield \(name, attributes\)"):
        list(host("readdir", host.root, 0, None))


# ------------------------------------------------------------------------------------ memory, depth


def test_what_the_host_forgot_is_dropped_and_what_is_above_a_known_file_is_kept() -> None:
    host = Host(Shelf("/a/", "/a/b/", "/a/b/f"))
    file = host.node("/a/b/f")
    directory = weakref.ref(host.node("/a/b"))
    gc.collect()
    assert directory() is not None
    host.rename("/a", "/z")
    assert host.ino(file) == 4
    forgotten = weakref.ref(file)
    del file
    gc.collect()
    assert forgotten() is None
    assert directory() is None


def test_files_of_a_class_that_is_not_told_of_closing_are_not_kept() -> None:
    class Reply:
        pass

    class Creates(puffs.PathFileSystem):
        def getattr(self, path: str, file: Any = None) -> puffs.Attr:
            return puffs.Attr(DIR)

        def create(self, path: str, attr: puffs.Attr, flags: int, cred: puffs.Cred) -> object:
            return Reply()

    host = Host(Creates())
    assert "close" not in host.ops
    node, opened = host("create", host.root, "f", puffs.Attr(FILE), os.O_RDWR, CRED)
    gone = weakref.ref(opened)
    del opened
    gc.collect()
    assert gone() is None
    assert host.node("/f") is node


def test_the_paths_of_a_deep_tree_are_not_all_kept() -> None:
    class Endless(puffs.PathFileSystem):
        def getattr(self, path: str, file: Any = None) -> puffs.Attr:
            return puffs.Attr(DIR)

    host = Host(Endless())
    depth, name = 400, "/" + "n" * 249
    tracemalloc.start()
    try:
        node = host.node(name * depth)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert host("getattr", node).type == stat.S_IFDIR
    together = depth * depth / 2 * len(name)
    assert size < together / 10


def test_a_deep_tree() -> None:
    depth = 3000
    paths = ["/n" * level + "/" for level in range(1, depth + 1)]
    server = Shelf()
    server.files |= {path.rstrip("/"): File(number, DIR) for number, path in enumerate(paths, 2)}
    host = Host(server)
    node = host.node("/n" * depth)
    assert host.ino(node) == depth + 1
    host.rename("/n", "/m")
    assert host.ino(node) == depth + 1
    assert server.asked[-1] == ("getattr", "/m" + "/n" * (depth - 1))
    assert repr(node) == f"<node /m{'/n' * (depth - 1)}>"


# -------------------------------------------------------------------------------------- concurrency


class Slow(Shelf):
    """`held` operations on a path wait, after they have said so, until they are let go."""

    def __init__(self, *paths: str) -> None:
        super().__init__(*paths)
        self.held: dict[tuple[str, str], tuple[threading.Event, threading.Event]] = {}

    def hold(self, operation: str, path: str) -> tuple[threading.Event, threading.Event]:
        events = self.held[operation, path] = threading.Event(), threading.Event()
        return events

    def pause(self, operation: str, path: str) -> None:
        events = self.held.pop((operation, path), None)
        if events is not None:
            events[0].set()
            assert events[1].wait(30)

    def getattr(self, path: str, file: Any = None) -> puffs.Attr:
        self.pause("getattr", path)
        return super().getattr(path, file)

    def rename(self, path: str, newpath: str, flags: int, cred: puffs.Cred) -> None:
        super().rename(path, newpath, flags, cred)
        self.pause("rename", path)

    def remove(self, path: str, cred: puffs.Cred) -> None:
        super().remove(path, cred)
        self.pause("remove", path)

    def link(self, path: str, newpath: str, cred: puffs.Cred) -> None:
        super().link(path, newpath, cred)
        self.pause("link", path)


class Aside(threading.Thread):
    """Runs a call in another thread; `result()` is what it returned or raised."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self.call, self.args = call, args
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.call(*self.args)
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.join(30)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.value


@pytest.mark.parametrize("operation", ["lookup", "getattr"])
def test_a_rename_above_an_operation_under_way_is_not_seen(operation: str) -> None:
    """The path was right when the operation began, and is not there any more when it is used."""
    server = Slow("/a/", "/a/f")
    host = Host(server)
    directory, file = host.node("/a"), host.node("/a/f")
    begun, go_on = server.hold("getattr", "/a/f")
    args = (directory, "f", CRED) if operation == "lookup" else (file, None)
    aside = Aside(host, operation, *args)
    assert begun.wait(30)
    host.rename("/a", "/b")
    go_on.set()
    result = aside.result()
    assert (result.attr if operation == "lookup" else result).ino == 3
    if operation == "lookup":
        assert result.node is file


@pytest.mark.parametrize("operation", ["lookup", "getattr", "open", "read"])
def test_an_operation_below_a_rename_under_way_waits_for_it(operation: str) -> None:
    """The file server has moved the files already, and has not said so yet."""
    server = Slow("/a/", "/a/f")
    host = Host(server)
    directory, file = host.node("/a"), host.node("/a/f")
    moved, go_on = server.hold("rename", "/a")
    renaming = Aside(host.rename, "/a", "/b")
    assert moved.wait(30)
    args: dict[str, tuple[Any, ...]] = {
        "lookup": (directory, "f", CRED),
        "getattr": (file, None),
        "open": (file, os.O_RDONLY, CRED),
        "read": (file, 0, 10, None),
    }
    asked = len(server.asked)
    aside = Aside(host, operation, *args[operation])
    while len(server.asked) == asked:  # it has been told ENOENT, or is about to be
        pass
    go_on.set()
    renaming.result()
    aside.result()
    assert server.asked[-1][1] == "/b/f"


def test_a_lookup_that_a_new_file_overtakes_is_about_the_new_file() -> None:
    server = Slow("/f")
    host = Host(server)
    old = host.node("/f")
    begun, go_on = server.hold("getattr", "/f")
    aside = Aside(host, "lookup", host.root, "f", CRED)
    assert begun.wait(30)
    host("remove", host.root, "f", CRED)
    new, _ = host("create", host.root, "f", puffs.Attr(FILE), os.O_RDWR, CRED)
    go_on.set()
    entry = aside.result()
    assert entry.node is new is not old
    assert entry.attr.ino == host.ino(new)


def test_a_file_made_while_its_name_is_still_being_removed_keeps_its_node() -> None:
    server = Slow("/f")
    host = Host(server)
    old = host.node("/f")
    removed, go_on = server.hold("remove", "/f")
    aside = Aside(host, "remove", host.root, "f", CRED)
    assert removed.wait(30)
    new, _ = host("create", host.root, "f", puffs.Attr(FILE), os.O_RDWR, CRED)
    go_on.set()
    aside.result()
    assert host.node("/f") is new is not old


def test_a_link_to_a_file_that_is_removed_meanwhile_is_where_it_lives_on() -> None:
    server = Slow("/f")
    host = Host(server)
    node = host.node("/f")
    linked, go_on = server.hold("link", "/f")
    aside = Aside(host, "link", node, host.root, "g", CRED)
    assert linked.wait(30)
    host("remove", host.root, "f", CRED)
    go_on.set()
    aside.result()
    assert host.node("/g") is node
    assert host.ino(node) == 2


def test_lookups_at_the_same_time_find_one_node() -> None:
    host = Host(Shelf(*(f"/{number}" for number in range(100))))
    found: list[list[Any]] = [[] for _ in range(4)]
    start = threading.Barrier(4)

    def look(nodes: list[Any]) -> None:
        start.wait(30)
        nodes.extend(host.node(f"/{number}") for number in range(100))

    for aside in [Aside(look, nodes) for nodes in found]:
        aside.result()
    assert found[0] == found[1] == found[2] == found[3]
