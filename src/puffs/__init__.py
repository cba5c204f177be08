"""puffs: write a file system in Python; mount it for real.

Everything public is here, loaded when it is first used. Start with `Tree`, `PathFileSystem` or
`FileSystem`, and with `main`, `run`, `mount` or `local`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puffs.attach.fuse.mounting import MountError as MountError
    from puffs.attach.local.vfs import LocalFileSystem as LocalFileSystem
    from puffs.attach.local.vfs import local as local
    from puffs.attach.main import main as main
    from puffs.attach.serve import mount as mount
    from puffs.attach.serve import run as run
    from puffs.attach.serve import session as session
    from puffs.isolate.isolation import Isolation as Isolation
    from puffs.kernel.args import KernelFlag as KernelFlag
    from puffs.kernel.args import MountArgs as MountArgs
    from puffs.kernel.mount import Mount as Mount
    from puffs.kernel.mount import ServerDied as ServerDied
    from puffs.kernel.mount import Status as Status
    from puffs.kernel.notice import Notice as Notice
    from puffs.kernel.sizes import StatVfsError as StatVfsError
    from puffs.kernel.sync import Wait as Wait
    from puffs.server.access import check_access as check_access
    from puffs.server.access import check_make as check_make
    from puffs.server.access import check_open as check_open
    from puffs.server.access import check_remove as check_remove
    from puffs.server.access import check_rename as check_rename
    from puffs.server.access import check_setattr as check_setattr
    from puffs.server.access import check_sticky as check_sticky
    from puffs.server.access import check_xattr as check_xattr
    from puffs.server.access import inherit as inherit
    from puffs.server.access import new_acls as new_acls
    from puffs.server.access import set_acl as set_acl
    from puffs.server.acl import ACL_ACCESS as ACL_ACCESS
    from puffs.server.acl import ACL_DEFAULT as ACL_DEFAULT
    from puffs.server.acl import ACL_NAMES as ACL_NAMES
    from puffs.server.acl import Acl as Acl
    from puffs.server.acl import AclEntry as AclEntry
    from puffs.server.atime import mark_atime as mark_atime
    from puffs.server.attr import Attr as Attr
    from puffs.server.attr import Changes as Changes
    from puffs.server.attr import StatVfs as StatVfs
    from puffs.server.cred import Cred as Cred
    from puffs.server.cred import caller as caller
    from puffs.server.filesystem import FOREVER as FOREVER
    from puffs.server.filesystem import FileSystem as FileSystem
    from puffs.server.path_mount import PathMount as PathMount
    from puffs.server.paths import PathFileSystem as PathFileSystem
    from puffs.server.tree import Tree as Tree
    from puffs.server.types import FHFLAG_DYNAMIC as FHFLAG_DYNAMIC
    from puffs.server.types import FHFLAG_NFSV2 as FHFLAG_NFSV2
    from puffs.server.types import FHFLAG_NFSV3 as FHFLAG_NFSV3
    from puffs.server.types import RENAME_EXCHANGE as RENAME_EXCHANGE
    from puffs.server.types import RENAME_NOREPLACE as RENAME_NOREPLACE
    from puffs.server.types import RENAME_WHITEOUT as RENAME_WHITEOUT
    from puffs.server.types import Buffer as Buffer
    from puffs.server.types import Cookie as Cookie
    from puffs.server.types import DirEntry as DirEntry
    from puffs.server.types import Entry as Entry
    from puffs.server.types import Lock as Lock
    from puffs.server.types import Open as Open
    from puffs.server.types import Suspend as Suspend

__version__ = "0.1.0"

_HOME = {
    "puffs.attach.fuse.mounting": "MountError",
    "puffs.attach.local.vfs": "LocalFileSystem local",
    "puffs.attach.main": "main",
    "puffs.attach.serve": "mount run session",
    "puffs.isolate.isolation": "Isolation",
    "puffs.kernel.args": "KernelFlag MountArgs",
    "puffs.kernel.mount": "Mount ServerDied Status",
    "puffs.kernel.notice": "Notice",
    "puffs.kernel.sizes": "StatVfsError",
    "puffs.kernel.sync": "Wait",
    "puffs.server.access": (
        "check_access check_make check_open check_remove check_rename check_setattr check_sticky "
        "check_xattr inherit new_acls set_acl"
    ),
    "puffs.server.acl": "ACL_ACCESS ACL_DEFAULT ACL_NAMES Acl AclEntry",
    "puffs.server.atime": "mark_atime",
    "puffs.server.attr": "Attr Changes StatVfs",
    "puffs.server.cred": "Cred caller",
    "puffs.server.filesystem": "FOREVER FileSystem",
    "puffs.server.path_mount": "PathMount",
    "puffs.server.paths": "PathFileSystem",
    "puffs.server.tree": "Tree",
    "puffs.server.types": (
        "Buffer Cookie DirEntry Entry FHFLAG_DYNAMIC FHFLAG_NFSV2 FHFLAG_NFSV3 Lock Open "
        "RENAME_EXCHANGE RENAME_NOREPLACE RENAME_WHITEOUT Suspend"
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 (made from the table, so that no name can be missing)


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
