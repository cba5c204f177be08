"""`mem`, deciding itself who may do what: what a file server has to do for that."""

import os
from typing import Any

import puffs
from puffs.fs.mem import MemFS
from puffs.fs.nodes import Node, directory


class Checked(MemFS):
    """The same file system with `access`, and with a check in each operation. An open file is its
    flags.
    """

    def access(self, node: Node, mode: int, cred: puffs.Cred) -> None:
        puffs.check_access(node.attr, mode, cred)

    def lookup(self, dir: Node, name: str, cred: puffs.Cred) -> puffs.Entry:
        if name != "..":
            puffs.check_access(dir.attr, os.X_OK, cred)
        return super().lookup(dir, name, cred)

    def create(  # type: ignore[override]
        self, dir: Node, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> tuple[puffs.Entry, int]:
        puffs.check_make(dir.attr, cred)
        return super().create(dir, name, attr, flags, cred), flags

    def tmpfile(  # type: ignore[override]
        self, dir: Node, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> tuple[puffs.Entry, int]:
        puffs.check_make(dir.attr, cred)
        return super().tmpfile(dir, attr, flags, cred), flags

    def mknod(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        puffs.check_make(dir.attr, cred)
        return super().mknod(dir, name, attr, cred)

    def mkdir(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        puffs.check_make(dir.attr, cred)
        return super().mkdir(dir, name, attr, cred)

    def symlink(
        self, dir: Node, name: str, target: str, attr: puffs.Attr, cred: puffs.Cred
    ) -> puffs.Entry:
        puffs.check_make(dir.attr, cred)
        return super().symlink(dir, name, target, attr, cred)

    def link(self, node: Node, dir: Node, name: str, cred: puffs.Cred) -> puffs.Entry:
        puffs.check_make(dir.attr, cred)
        return super().link(node, dir, name, cred)

    def remove(self, dir: Node, name: str, cred: puffs.Cred) -> None:
        puffs.check_remove(dir.attr, directory(dir).find(name).attr, cred)
        super().remove(dir, name, cred)

    def rmdir(self, dir: Node, name: str, cred: puffs.Cred) -> None:
        puffs.check_remove(dir.attr, directory(dir).find(name).attr, cred)
        super().rmdir(dir, name, cred)

    def rename(
        self, dir: Node, name: str, newdir: Node, newname: str, flags: int, cred: puffs.Cred
    ) -> None:
        node, old = directory(dir).find(name), directory(newdir).entries.get(newname)
        replaced = None if old is None else old.attr
        puffs.check_rename(dir.attr, node.attr, newdir.attr, replaced, cred, flags)
        super().rename(dir, name, newdir, newname, flags, cred)

    def open(self, node: Node, flags: int, cred: puffs.Cred) -> int:
        puffs.check_open(node.attr, flags, cred)
        return flags

    def opendir(self, dir: Node, cred: puffs.Cred) -> None:
        puffs.check_open(dir.attr, os.O_RDONLY, cred)

    def setattr(
        self, node: Node, changes: puffs.Changes, file: Any, cred: puffs.Cred
    ) -> puffs.Attr:
        writing = file is not None and file & os.O_ACCMODE != os.O_RDONLY
        puffs.check_setattr(node.attr, changes, cred, writing=writing)
        return super().setattr(node, changes, file, cred)

    def getxattr(self, node: Node, name: str) -> bytes:
        puffs.check_xattr(node.attr, name, os.R_OK, puffs.caller())
        return super().getxattr(node, name)

    def setxattr(self, node: Node, name: str, value: bytes, flags: int) -> None:
        puffs.check_xattr(node.attr, name, os.W_OK, puffs.caller())
        super().setxattr(node, name, value, flags)

    def removexattr(self, node: Node, name: str) -> None:
        puffs.check_xattr(node.attr, name, os.W_OK, puffs.caller())
        super().removexattr(node, name)
