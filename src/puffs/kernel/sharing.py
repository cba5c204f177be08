"""Several attachments of one mount: what an operation of one changes, the hosts of the others are
told, before its caller goes on.

`EFFECTS` says for each operation what it changes, and what the others must have written before:
pages that a program on another host has changed in memory (mmap(2)) would be missed by who opens
the file here, or be written over what is written here.

Reading is from open to close, as with NFS: `open` sees all that was stored before it. What programs
elsewhere store into mapped memory later, and do not msync(2), shows here at the next `open`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar, cast

from puffs.kernel.flush import HostCache, whole_pages
from puffs.kernel.notice import Notice
from puffs.kernel.vnode import Vnode
from puffs.server.attr import Changes
from puffs.server.cred import requester
from puffs.server.types import Buffer

if TYPE_CHECKING:
    from puffs.kernel.vnops import Vnops
    from puffs.kernel.vop import OpenFile, VnodeOperations

logger = logging.getLogger("puffs")

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V", bound="VnodeOperations")

_OFFSET_END: Final = 1 << 63

Names = tuple[tuple[Vnode, str], ...]
Pages = tuple[Vnode, int, int]
"""Contents of a file, from one offset to another, whole pages; 0 is its end."""


class Effect(NamedTuple):
    """What one call of an operation does to what others have cached.

    `names` change, and their directories with them; so do the attributes of `nodes`, and, with
    `moves`, those of the files that the names led to before. `pages` change. `first` are the pages
    that must have been written before.
    """

    names: Names = ()
    moves: bool = False
    nodes: tuple[Vnode, ...] = ()
    pages: tuple[Pages, ...] = ()
    first: tuple[Pages, ...] = ()


def _range(vnode: Vnode, offset: int, length: int) -> tuple[Pages]:
    end = offset + length
    if offset < 0 or end <= offset or end >= _OFFSET_END:  # will be refused, or does nothing
        return ((vnode, 0, 0),)
    return ((vnode, *whole_pages(offset, end)),)


def _makes(dir: Vnode, name: str, *_: object, **__: object) -> Effect:
    return Effect(names=((dir, name),))


def _link(vnode: Vnode, dir: Vnode, name: str) -> Effect:
    return Effect(names=((dir, name),), nodes=(vnode,))


def _takes_away(dir: Vnode, name: str) -> Effect:
    return Effect(names=((dir, name),), moves=True)


def _rename(dir: Vnode, name: str, newdir: Vnode, newname: str, flags: int = 0) -> Effect:
    return Effect(names=((dir, name), (newdir, newname)), moves=True)


def _open(vnode: Vnode, flags: int) -> Effect:
    return Effect(first=((vnode, 0, 0),))


def _write(file: "OpenFile", offset: int, data: Buffer) -> Effect:
    pages = _range(file.vnode, offset, memoryview(data).nbytes)
    return Effect(pages=pages, first=pages)


def _fallocate(file: "OpenFile", mode: int, offset: int, length: int) -> Effect:
    pages = _range(file.vnode, offset, length)
    return Effect(pages=pages, first=pages)


def _copy(file: "OpenFile", offset: int, to: "OpenFile", to_offset: int, size: int) -> Effect:
    source, target = _range(file.vnode, offset, size), _range(to.vnode, to_offset, size)
    return Effect(pages=target, first=source + target)


def _setattr(vnode: Vnode, changes: Changes, file: "OpenFile | None" = None) -> Effect:
    if changes.size is None:
        return Effect(nodes=(vnode,))
    return Effect(pages=((vnode, *whole_pages(changes.size, 0)),), first=((vnode, 0, 0),))


def _xattr(vnode: Vnode, *_: object, **__: object) -> Effect:
    return Effect(nodes=(vnode,))


EFFECTS: Final[dict[str, Callable[..., Effect]]] = {
    "create": _makes,
    "mknod": _makes,
    "mkdir": _makes,
    "symlink": _makes,
    "link": _link,
    "remove": _takes_away,
    "rmdir": _takes_away,
    "rename": _rename,
    "open": _open,
    "write": _write,
    "fallocate": _fallocate,
    "copy_file_range": _copy,
    "setattr": _setattr,
    "setxattr": _xattr,
    "removexattr": _xattr,
}
"""By operation: its effect, from the arguments that `Vnops` takes."""


def shared(call: Callable[Concatenate[V, P], R]) -> Callable[Concatenate[V, P], R]:
    """An operation of `Vnops` that tells the other hosts, if there are any; see `EFFECTS`.

    It returns when they have heard it. Inside an operation, of whatever mount, they are told but
    nobody waits: see `Notice`.
    """
    effect_of = EFFECTS.get(call.__name__)
    if effect_of is None:
        return call

    @wraps(call)
    def run(vnops: V, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not vnops.mount.shared:
            return call(vnops, *args, **kwargs)
        others = vnops.mount.host_caches(beside=vnops.host)
        effect = effect_of(*args, **kwargs)
        _wait(cache.flush_pages(*pages) for cache in others for pages in effect.first)
        moved: list[Vnode] = []

        def whole() -> R:
            moved.extend(_led_to(cast("Vnops", vnops), effect.names))
            return call(vnops, *args, **kwargs)

        try:
            # In one go, so that nobody changes in between what a name leads to.
            return vnops.at_once(whole) if effect.moves else call(vnops, *args, **kwargs)
        finally:  # what has failed may have been done in part
            _wait(_told(others, effect, moved))

    return run


def _led_to(vnops: "Vnops", names: Names) -> Iterator[Vnode]:
    """The nodes that names lead to now."""
    for dir, name in names:
        try:
            vnode = vnops.lookup(dir, name).vnode
        except OSError:
            continue
        yield vnode
        vnops.forget(vnode)


def _told(others: list[HostCache], effect: Effect, moved: list[Vnode]) -> Iterator[Notice]:
    for cache in others:
        for dir, name in effect.names:
            yield cache.invalidate_name(dir, name)
        for vnode in (*effect.nodes, *moved):
            yield cache.invalidate_attr(vnode)
        for pages in effect.pages:
            yield cache.invalidate_pages(*pages)


def _wait(notices: Iterable[Notice]) -> None:
    """Tell all, then wait until all have heard, unless inside an operation."""
    told = list(notices)
    if requester.get(None) is not None:
        return
    for notice in told:
        failure: Any = notice.exception()
        if failure is not None:
            logger.warning("a host could not be told of a change: %s", failure)
