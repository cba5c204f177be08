"""What a mount stands between: hosts, by their attachments, and a file server."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, cast

from puffs.kernel.flush import HostCache
from puffs.server.operations import Operations
from puffs.server.types import Entry

T = TypeVar("T")


class Attachment(Protocol):
    """What connects a host to a mount.

    It works either by plain calls (`puffs.kernel.vnops`), and so through the page cache of the
    kernel half, or by messages of a host that has a cache of its own.
    """

    @property
    def by_call(self) -> bool:
        """Whether it works by plain calls."""
        ...

    @property
    def alone(self) -> str:
        """Why nobody else may change files beside this host; empty if others may."""
        ...

    @property
    def cache(self) -> HostCache:
        """What the host has cached of the mount."""
        ...

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function` on a thread that serves, and return what it returns.

        From other threads only.
        """
        ...

    def post(self, function: Callable[[], None]) -> None:
        """Have `function` run on a thread that serves, and do not wait for it. From any thread."""
        ...

    def busy(self) -> bool:
        """Whether files are open, as far as that can be told without trying."""
        ...

    def flush(self) -> None:
        """Have the host write what it has buffered, so that the file server sees it."""
        ...

    def check_outside(self) -> None:
        """EDEADLK on a thread that serves: what waits for that must not be done there."""
        ...

    def suspend(self, deadline: float) -> None:
        """Have the host write what it has buffered, then let it begin no operation, and none be
        under way.

        `deadline`, on the monotonic clock: ETIMEDOUT after it. Afterwards, and also if it failed,
        `resume` is called.
        """
        ...

    def resume(self) -> None:
        """Let the host go on: what was held back is served. Nothing to do where nothing was."""
        ...

    def holds(self, path: str) -> bool:
        """Whether a path of the host leads into what is attached."""
        ...

    def detach(self, force: bool) -> None:
        """Take the file system from the host; EBUSY when it is in use and `force` is not set."""
        ...


class Servable(Protocol):
    """What a file server is to the kernel half: its operations, lifetimes, name and handles."""

    @property
    def name_ttl(self) -> float:
        """Seconds for which hosts may trust that a name leads to its file."""
        ...

    @property
    def attr_ttl(self) -> float:
        """Seconds for which hosts may trust attributes."""
        ...

    @property
    def negative_ttl(self) -> float:
        """Seconds for which hosts may trust that a name does not exist."""
        ...

    @property
    def name(self) -> str:
        """What it calls itself; may be empty."""
        ...

    @property
    def fhsize(self) -> int:
        """The length of its file handles in bytes; 0: it has none."""
        ...

    @property
    def fhflags(self) -> int:
        """Of what kind they are."""
        ...

    @property
    def names_for_all(self) -> bool:
        """Whether what one caller has found may be shown to all, whatever `access` says."""
        ...

    @property
    def posix_acl(self) -> bool:
        """Whether it keeps POSIX ACLs."""
        ...

    @property
    def passthrough(self) -> bool:
        """Whether its opens bring descriptors of the host's own files."""
        ...

    @property
    def asynchronous(self) -> bool:
        """Whether an operation may be `async def`."""
        ...

    def operations(self) -> Operations:
        """The operations that it implements, bound, by name."""
        ...


class Listing(Protocol):
    """What one answer to a host that lists a directory is made of, as far as it has room."""

    def add(self, name: bytes, entry: Entry, next: int) -> bool:
        """Add a name with its node and attributes; `next` is the position behind it.

        True: the host will be told, and this counts as a lookup of the node, unless the name is "."
        or "..". False: there is no room for it, and nothing has happened.
        """
        ...


class Counting(ABC):
    """A file server that counts for itself how often hosts were told of its nodes: derive from it.

    Others have `reclaim` for the end of that. This kind is told of each step: a host has counted
    one for every successful reply with a node (`lookup`, `create`, `mknod`, `mkdir`, `symlink`,
    `link`, `vget`, every entry that `Listing.add` has taken), and what it then forgets comes back
    by `forgotten`, so often in all. It may use a cookie again for a new file while hosts still know
    the old one.
    """

    @abstractmethod
    def forgotten(self, node: Any, lookups: int) -> None:
        """A host has forgotten so many of the times that it was told of `node`."""


class Filling(ABC):
    """A file server that fills listings itself, with nodes, where hosts take these too: derive from
    it.
    """

    @abstractmethod
    def fill(self, dir: Any, offset: int, file: Any, listing: Listing) -> Any:
        """Add the entries of `dir` from the position `offset` on, until there is no room.

        In place of `readdir`, and may be a coroutine as that. The entries "." and ".." are up to
        it. A host is then told of nodes in every listing, and not only where that seems useful.
        """


class LongNames:
    """A file server whose names may be longer than what Linux itself has: derive from it.

    Archives and other systems have such names: 255 characters, which are not 255 bytes.
    """

    namemax: ClassVar[int] = 1024
    """The longest, in bytes: the longest that Linux takes from a file server. [FUSE_NAME_MAX]"""


def made(fs: Servable | Callable[[], Servable]) -> Servable:
    """A file server: itself, or what its class or a function makes."""
    if isinstance(fs, type) or not hasattr(fs, "operations"):
        return cast(Callable[[], Servable], fs)()
    return cast(Servable, fs)


def name_of(server: Servable) -> str:
    """What a file server is called: by itself, or by its class."""
    return server.name or type(server).__name__.lower()
