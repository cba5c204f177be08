"""Files of the host, each held by a descriptor of its own: what `null` stands on.

A file is reached through its descriptor (O_PATH, open(2)) and never by a path, so whatever others
rename or put in its place, it stays the file that was found. Descriptors are limited: of more files
than `HostFiles.limit`, those that were not used for the longest time lose theirs. One that is used
again is opened anew:

- by its file handle, where this process may (CAP_DAC_READ_SEARCH) and the file is on the mount of
  the root directory; that finds it under any name;
- else by the name under which it was last seen, in its directory. What is found there must be the
  same file, or else the answer is ESTALE, and the host looks the name up again.

"The same file" means the same mount and the same file handle (name_to_handle_at(2)), which has the
inode number and a generation: a number that the host gives to another file leads to another handle.
On the few file systems that have no handles, such as overlayfs, it means the same device and inode
number: no other file gets the number while a descriptor of this one is held, and after that its
time of birth must be the same too.
"""

import os
import re
import resource
import secrets
import stat
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from errno import ELOOP, EMFILE, ENFILE, ENOENT, ENOMEM, ENOTDIR, ESTALE
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from puffs.fs import hostcalls
from puffs.fs.hosthandles import HandleNumbers

T = TypeVar("T")

DESCRIPTORS_MAX: Final = 1 << 16
"""Each descriptor keeps an inode of the host in memory, a kilobyte or more: no more than these."""

_PATH: Final = os.O_PATH | os.O_CLOEXEC
_ENTRY: Final = _PATH | os.O_NOFOLLOW
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_PLAIN_INOS: Final = 1 << 62
"""Inode numbers of the root directory's device are shown as they are, up to here."""
_INO_BITS: Final = 48
_TAGS: Final = 1 << (62 - _INO_BITS)

NOT_ASKED: Final = -1

_NO_HANDLE: Final = Struct("=QQ")
_BORN: Final = Struct("=q")

_LOCAL: Final = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs")
)
"""File systems on which close(2) has no errors of earlier writes to report."""


class Descriptor(int):
    """A descriptor that is closed when nobody refers to it any more.

    Whoever uses one holds a reference: no other thread can close it meanwhile, and its number does
    not come to mean another file.
    """

    __slots__ = ()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self)

    @property
    def path(self) -> str:
        """A path that leads to this very file, for calls that take no descriptor [proc(5)].

        Those that take a directory's get there faster: `HostFiles.descriptors`.
        """
        path = _DescriptorPath(f"/proc/self/fd/{self}")
        path.descriptor = self
        return path


class _DescriptorPath(str):
    """The path of a descriptor: it refers to it, or it might come to lead to another file."""

    __slots__ = ("descriptor",)

    descriptor: Descriptor


class Volume:
    """One device as one mount shows it: where the inode numbers of its files are shown.

    Those of the root directory's volume are shown as they are. The others have a range each, so
    that no two are alike; which one is made from the identity of the file system, and is the same
    next time unless another file system was there first.
    """

    __slots__ = ("local", "seed", "tag")

    def __init__(self, seed: int, tag: int, local: bool) -> None:
        self.seed = seed
        self.tag = tag
        self.local = local

    def number(self, ino: int) -> int:
        """The inode number that the host shows for the file with number `ino` of this volume."""
        if self.tag == 0 and ino < _PLAIN_INOS:
            return ino
        if ino >> _INO_BITS:
            digest = blake2b(ino.to_bytes(8, "little"), digest_size=_INO_BITS // 8).digest()
            ino = int.from_bytes(digest, "little")
        return _PLAIN_INOS | self.tag << _INO_BITS | ino


class Node:
    """A file; its own cookie.

    There is one for each `key`, as long as anybody refers to it; `born` is 0 unless the key alone
    does not say which file it is. `parent` and `name` are where it was last seen; both are of no
    use for the root and for a file that was made without a name, or found by its handle. `ino` is
    the inode number that is shown, `generation` 32 bits that another file with this number will not
    have, nor this one below another root directory, `type` that of stat(2). `opens` counts open
    files; while there are any, `descriptor` stays. `stamp` is the version of its contents that the
    host has cached, `btime_ns` the time of birth once it was asked for.

    Of directories: `told` is how many of the first names the host knows the attributes of until
    `told_until` (monotonic). `familiar` says that what was opened last in there had a descriptor
    already, so that the next one may have it, too.
    """

    __slots__ = (
        "__weakref__",
        "born",
        "btime_ns",
        "descriptor",
        "familiar",
        "generation",
        "ino",
        "key",
        "name",
        "opens",
        "parent",
        "stamp",
        "told",
        "told_until",
        "type",
        "used",
        "volume",
    )

    def __init__(
        self, key: tuple[int, bytes], born: int, volume: Volume, st: os.stat_result
    ) -> None:
        self.key = key
        self.born = born
        self.volume = volume
        self.ino = volume.number(st.st_ino)
        self.generation = zlib.crc32(_BORN.pack(born), zlib.crc32(key[1], volume.seed))
        self.type = stat.S_IFMT(st.st_mode)
        self.parent: Node | None = None
        self.name = ""
        self.descriptor: Descriptor | None = None
        self.used = False
        self.familiar = False
        self.opens = 0
        self.stamp: tuple[int, int, int] | None = None
        self.told = 0
        self.told_until = 0.0
        self.btime_ns: int | None = NOT_ASKED

    def __repr__(self) -> str:
        return f"<Node {self.ino} {self.name!r}>"


class HostFiles:
    """The files below `directory`, by descriptor. Any number of threads may call.

    Raises the soft limit of descriptors of this process to the hard one (RLIMIT_NOFILE), and leaves
    it there. At most `limit` files keep a descriptor while they are not open.

    Raises `OSError` when the directory cannot be opened, or /proc is not mounted.
    """

    def __init__(self, directory: str) -> None:
        self.limit = min(_raise_limit() // 4, DESCRIPTORS_MAX)
        self._lock = threading.Lock()
        self._nodes: WeakValueDictionary[tuple[int, bytes], Node] = WeakValueDictionary()
        # Who may lose his descriptor, the next one first; one that was used since gets off once.
        self._idle: OrderedDict[Node, None] = OrderedDict()
        # Who may not, because no name is left to find him by.
        self._nameless: set[Node] = set()
        self._volumes: dict[tuple[int, int], Volume] = {}
        self._mounts: dict[int, _HostMount] = {}
        self._nonce = secrets.randbits(63)
        self._dropped = False

        descriptor = Descriptor(os.open(directory, _PATH | os.O_DIRECTORY))
        if not os.path.exists(descriptor.path):
            raise OSError(ENOENT, "null: needs /proc: mount -t proc proc /proc")
        self.descriptors = Descriptor(os.open("/proc/self/fd", _PATH | os.O_DIRECTORY))
        """Where the name `str(fd)` leads to the very file of a descriptor `fd` [proc(5)]: for calls
        that take a name in a directory. Whoever uses it holds a reference to the descriptor."""
        (self._mount_id, self._root_handle), _ = self._identify(descriptor)
        self._numbers = HandleNumbers(self._root_handle)
        self._mounts[self._mount_id] = _find_mount(self._mount_id)
        self.root, _ = self.adopt(descriptor)
        self.opened(self.root)  # and never closed
        self._handles = self._open_for_handles(descriptor)

    def close(self) -> None:
        """Give all descriptors back; nothing is to be called any more."""
        del self.descriptors
        with self._lock:
            for node in list(self._nodes.values()):
                node.descriptor = None
            self._idle.clear()
            self._nameless.clear()
            self._handles = None

    # -------------------------------------------------------------------------------- finding files

    def find(self, dir: Node, name: str) -> tuple[Node, os.stat_result]:
        """What `name` in `dir` is now, and its attributes. A symbolic link is not followed."""
        fd = self.descriptor(dir)
        if dir.familiar:  # what has a descriptor need not be opened
            key, born = self._identify(fd, os.fsencode(name))
            node = self._nodes.get(key)
            descriptor = None if node is None else node.descriptor
            if node is not None and descriptor is not None:
                st = os.stat(descriptor)
                with self._lock:
                    node.born, node.parent, node.name = born, dir, name
                node.used = True
                return node, st
        try:
            descriptor = Descriptor(os.open(name, _ENTRY, dir_fd=fd))
        except OSError as exc:
            if not self._make_room(exc):
                raise
            descriptor = Descriptor(self.opening(os.open, name, _ENTRY, dir_fd=fd))
        return self.adopt(descriptor, dir, name)

    def adopt(
        self, descriptor: Descriptor, parent: Node | None = None, name: str = ""
    ) -> tuple[Node, os.stat_result]:
        """The node of the file that was opened with O_PATH, as `name` in `parent`."""
        # In this order: stat(2) of a mount that this process serves would wait for itself.
        key, born = self._identify(descriptor)
        if key[0] not in self._mounts:
            self._mounts[key[0]] = _enter(_find_mount(key[0]))
        st = os.stat(descriptor)
        volume = self._volumes.get((key[0], st.st_dev)) or self._new_volume(key[0], st, descriptor)
        with self._lock:
            node = self._nodes.get(key)
            if node is None or (node.descriptor is None and node.born != born):
                node = self._nodes[key] = Node(key, born, volume, st)
            node.born = born  # overlayfs gives a file another one when it copies it up
            if parent is not None:
                parent.familiar = node.descriptor is not None
                node.parent, node.name = parent, name
            self._hold(node, descriptor)
        return node, st

    def number(self, node: Node) -> int:
        """The number by which `by_number` finds a file, in any run of this program.

        That is not the inode number that is shown. A file that cannot be found so, because its file
        system has no handles or others, or because it is in another mount than the root directory,
        has its inode number here, which leads nowhere.
        """
        number = self._numbers.number(node.key[1]) if node.key[0] == self._mount_id else None
        return number or node.ino

    def by_number(self, number: int) -> tuple[Node, os.stat_result]:
        """The file with a number. ESTALE when it is gone, or cannot be found so."""
        handle = self._numbers.handle(number)
        if handle is None:
            raise _stale()
        return self.by_handle(handle)

    def by_handle(self, handle: bytes) -> tuple[Node, os.stat_result]:
        """The file of the root directory's mount that has this handle. ESTALE when it is gone.

        Also for a directory that is not below the root directory. Of other files that cannot be
        told.
        """
        if self._handles is None:
            raise _stale()
        try:
            fd = self.opening(hostcalls.open_by_handle_at, self._handles, handle, _ENTRY)
        except OSError as exc:
            if exc.errno in (EMFILE, ENFILE, ENOMEM):
                raise
            raise _stale() from None  # what was given can be anything, and this is no file
        descriptor = Descriptor(fd)
        if self._identify(descriptor)[0] != (self._mount_id, handle):
            raise _stale()
        if stat.S_ISDIR(os.stat(descriptor).st_mode) and not self._is_below_root(descriptor):
            raise _stale()
        return self.adopt(descriptor)

    def lasting_handle(self, node: Node) -> bytes | None:
        """The handle by which `by_handle` finds a file, in any run; None where there is none."""
        return node.key[1] if self._handles and node.key[0] == self._mount_id else None

    def above(self, dir: Node) -> tuple[Node, os.stat_result]:
        """The directory that `dir` is in. ESTALE when others have moved it away from here."""
        descriptor = self.descriptor(dir)
        if dir is not self.root:
            descriptor = self._up(descriptor)
            if not self._is_below_root(descriptor):
                raise _stale()
        return self.adopt(descriptor)

    def _up(self, fd: Descriptor) -> Descriptor:
        return Descriptor(self.opening(os.open, "..", _PATH | os.O_DIRECTORY, dir_fd=fd))

    def _is_below_root(self, fd: Descriptor) -> bool:
        """Whether a directory is the root directory, or somewhere in it."""
        key, _ = self._identify(fd)
        while key != self.root.key:
            try:
                fd = self._up(fd)
            except FileNotFoundError:  # it is in no directory, or in none of this mount
                return False
            before, (key, _) = key, self._identify(fd)
            if key == before:  # the top of all there is
                return False
        return True

    def descriptor(self, node: Node) -> Descriptor:
        """The descriptor of `node`. ESTALE when it cannot be found any more."""
        descriptor = node.descriptor
        if descriptor is None:
            return self._reopen(node)
        node.used = True
        return descriptor

    def opening(self, call: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Call what opens a descriptor; when there is none left, give some back and call again.

        And again, if another thread was faster in taking them.
        """
        while True:
            try:
                return call(*args, **kwargs)
            except OSError as exc:
                if not self._make_room(exc):
                    raise

    def directory(self, node: Node) -> Descriptor:
        """A new descriptor of a directory, for reading and syncing it."""
        fd = self.descriptor(node)
        return Descriptor(self.opening(os.open, ".", _DIRECTORY, dir_fd=fd))

    def reopen(self, fd: int, flags: int) -> int:
        """Open the file of a descriptor anew, one of O_PATH for data or the other way round."""
        return self.opening(os.open, str(fd), flags | os.O_CLOEXEC, dir_fd=self.descriptors)

    # ------------------------------------------------------------------------ what happens to files

    def opened(self, node: Node) -> None:
        """One more open file of `node`: from now on it keeps its descriptor."""
        with self._lock:
            node.opens += 1
            self._idle.pop(node, None)

    def closed(self, node: Node) -> None:
        """One less."""
        with self._lock:
            node.opens -= 1
            if node.descriptor is not None:
                self._hold(node, node.descriptor)

    def forget(self, node: Node) -> None:
        """Nobody knows `node` any more; should it still be found, it is opened again."""
        with self._lock:
            self._idle.pop(node, None)
            self._nameless.discard(node)
            node.descriptor = None

    def losing(self, dir: Node, name: str) -> None:
        """A name is about to be taken away: its file must not depend on it."""
        if not self._dropped:
            return
        try:
            self.find(dir, name)
        except OSError:
            pass  # the call that takes it away will say what is wrong

    def moved(self, dir: Node, name: str) -> None:
        """What is called `name` in `dir` had another name before."""
        try:
            key, born = self._identify(self.descriptor(dir), os.fsencode(name))
        except OSError:
            return  # somebody has moved it on
        with self._lock:
            node = self._nodes.get(key)
            if node is not None and node.born == born:
                node.parent, node.name = dir, name

    @property
    def several_volumes(self) -> bool:
        """Whether files of more than one device or mount were met."""
        return len(self._volumes) > 1

    # ------------------------------------------------------------------------------------- identity

    def _identify(self, fd: int, name: bytes = b"") -> tuple[tuple[int, bytes], int]:
        """The `key` and `born` of `name` in the directory `fd`, or of what `fd` is."""
        key = hostcalls.file_handle(fd, name)
        if key is not None:
            return key, 0
        mount_id, dev, ino, btime_ns = hostcalls.birth(fd, name)
        # Not even a time of birth: at least a file id of this run is none in the next.
        return (mount_id, _NO_HANDLE.pack(dev, ino)), btime_ns or self._nonce

    def _new_volume(self, mount_id: int, st: os.stat_result, fd: int) -> Volume:
        fsid = os.statvfs(fd).f_fsid or st.st_dev
        checksum = zlib.crc32(fsid.to_bytes(8, "little"))
        with self._lock:
            taken = {volume.tag for volume in self._volumes.values()}
            tag = checksum % (_TAGS - 1) + 1 if taken else 0
            while tag in taken and len(taken) < _TAGS:
                tag = (tag + 1) % _TAGS
            seed = zlib.crc32(self._root_handle, checksum)
            volume = Volume(seed, tag, self._mounts[mount_id].fstype in _LOCAL)
            return self._volumes.setdefault((mount_id, st.st_dev), volume)

    # ---------------------------------------------------------------------------------- descriptors

    def _hold(self, node: Node, descriptor: Descriptor) -> None:
        """Let `node` have the descriptor, unless it has one. The caller holds the lock."""
        if node.descriptor is None:
            node.descriptor = descriptor
        node.used = True
        if node.opens == 0 and node not in self._nameless:
            self._idle[node] = None
            if len(self._idle) > self.limit:
                self._drop(self.limit)

    def _drop(self, limit: int) -> None:
        """Take descriptors away until `limit` are left. The caller holds the lock."""
        idle = self._idle
        while len(idle) > limit:
            node, _ = idle.popitem(last=False)
            if node.used:
                node.used = False
                idle[node] = None
            elif len(self._nameless) < self.limit and _is_nameless(node):
                self._nameless.add(node)
            else:
                node.descriptor = None
                self._dropped = True

    def _make_room(self, exc: OSError) -> bool:
        """If `exc` says that there are too many descriptors, take half of ours away."""
        if exc.errno not in (EMFILE, ENFILE) or not self._idle:
            return False
        with self._lock:
            self._drop(len(self._idle) // 2)
        return True

    def _reopen(self, node: Node) -> Descriptor:
        """Find a file again that lost its descriptor, and the directories above it that did."""
        lost: dict[Node, None] = {}
        at = node
        while (descriptor := self._at_once(at)) is None:
            lost[at] = None
            # Directories that others have moved into one another meanwhile have no way up.
            if at.parent is None or at.parent in lost:
                raise _stale()
            at = at.parent
        self._keep(at, descriptor)
        for below in reversed(lost):
            descriptor = self._by_name(below, descriptor)
            self._keep(below, descriptor)
        return descriptor

    def _keep(self, node: Node, descriptor: Descriptor) -> None:
        with self._lock:
            self._hold(node, descriptor)

    def _at_once(self, node: Node) -> Descriptor | None:
        """A descriptor of `node` that takes no name: it has one after all, or by its handle."""
        descriptor = node.descriptor
        if descriptor is None and self._handles is not None and node.key[0] == self._mount_id:
            try:
                fd = self.opening(hostcalls.open_by_handle_at, self._handles, node.key[1], _ENTRY)
            except OSError:
                return None
            descriptor = Descriptor(fd)
        return descriptor

    def _by_name(self, node: Node, dir_fd: Descriptor) -> Descriptor:
        try:
            descriptor = Descriptor(self.opening(os.open, node.name, _ENTRY, dir_fd=dir_fd))
        except OSError as exc:
            if exc.errno in (ENOENT, ENOTDIR):
                raise _stale() from None
            raise
        if self._identify(descriptor) != (node.key, node.born):
            raise _stale()
        return descriptor

    def _open_for_handles(self, root: Descriptor) -> Descriptor | None:
        """What open_by_handle_at(2) needs; None where it may not be used or does not work."""
        try:
            handles = Descriptor(os.open(".", _DIRECTORY, dir_fd=root))
            os.close(hostcalls.open_by_handle_at(handles, self.root.key[1], _ENTRY))
        except OSError:
            return None
        return handles


def _is_nameless(node: Node) -> bool:
    assert node.descriptor is not None
    try:
        return os.stat(node.descriptor).st_nlink == 0
    except OSError:
        return False


def _stale() -> OSError:
    return OSError(ESTALE, os.strerror(ESTALE))


def _raise_limit() -> int:
    """Let this process have as many descriptors as it may; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard


class _HostMount(NamedTuple):
    """What is known of a mount of the host: nothing of one that is not in sight."""

    fstype: str = ""
    minor: str = ""


def _find_mount(mount_id: int) -> _HostMount:
    """Look a mount up by its id. [proc_pid_mountinfo(5)]"""
    pattern = re.compile(rf"^{mount_id} \d+ \d+:(\d+) .*? - (\S+) ", re.MULTILINE)
    with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
        found = pattern.search(mounts.read())
    return _HostMount(found[2], found[1]) if found else _HostMount()


def _enter(mount: _HostMount) -> _HostMount:
    """A mount was met: ELOOP if this process serves it itself, for it would wait for itself."""
    if mount.fstype.startswith("fuse") and _serves(mount):
        raise OSError(ELOOP, "this is a mount that this process serves itself")
    return mount


def _serves(mount: _HostMount) -> bool:
    """Whether this process has the device of a FUSE mount open."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") != "/dev/fuse":
                continue
            with open(f"/proc/self/fdinfo/{fd}") as info:
                connection = re.search(r"^fuse_connection:\s*(\d+)", info.read(), re.MULTILINE)
        except OSError:
            continue  # closed meanwhile
        # Older kernels do not tell the connection.
        if connection[1] == mount.minor if connection else mount.fstype.startswith("fuse.puffs"):
            return True
    return False
