"""Operations on names and attributes, of a program for fusepy or mfusepy: as `path_files`."""

import errno
import os
from collections.abc import Callable
from stat import S_IFMT, S_IMODE, S_ISREG
from typing import Any, Final

from puffs.refuse import path_files
from puffs.refuse.attributes import sizes
from puffs.refuse.calls import Method, absent, error
from puffs.refuse.program import Program
from puffs.server.attr import Attr, Changes, StatVfs
from puffs.server.cred import Cred
from puffs.server.types import Open

_UTIME_NOW: Final = (1 << 30) - 1
_UTIME_OMIT: Final = (1 << 30) - 2
_NS: Final = 1_000_000_000


def _statvfs(program: Program) -> Method | None:
    statfs = program.calls.find("statfs")
    if statfs is None:
        return None

    def statvfs() -> StatVfs:
        try:
            return sizes(statfs("/"))
        except BaseException as exc:
            raise program.failures.of("statfs", exc) from None

    return statvfs


# -------------------------------------------------------------------------------------------- names


def _mknod(program: Program) -> Method:
    ask = program.calls.status("mknod") or absent
    create, close = path_files.create(program), path_files.close(program)

    def mknod(path: str, attr: Attr, cred: Cred) -> None:
        if create is not None and S_ISREG(attr.mode):
            try:
                made = create(path, attr, os.O_EXCL | os.O_WRONLY, cred)
            except OSError as exc:
                if exc.errno != errno.ENOSYS:
                    raise
            else:
                close(path, made.file if isinstance(made, Open) else made, os.O_WRONLY)
                return
        ask(path, attr.mode, attr.rdev)

    return mknod


def _mkdir(program: Program) -> Method:
    ask = program.calls.status("mkdir") or absent

    def mkdir(path: str, attr: Attr, cred: Cred) -> None:
        ask(path, S_IMODE(attr.mode))

    return mkdir


def _symlink(program: Program) -> Method:
    ask = program.calls.status("symlink") or absent

    def symlink(path: str, target: str, attr: Attr, cred: Cred) -> None:
        ask(path, target)

    return symlink


def _link(program: Program) -> Method:
    ask = program.calls.status("link") or absent

    def link(path: str, newpath: str, cred: Cred) -> None:
        ask(newpath, path)

    return link


def _rename(program: Program) -> Method:
    ask = program.calls.status("rename") or absent

    def rename(path: str, newpath: str, flags: int, cred: Cred) -> None:
        # What flags ask for, neither library can say to the program.
        if flags:
            raise error(errno.EINVAL)
        ask(path, newpath)

    return rename


# --------------------------------------------------------------------------------------- attributes


def _setattr(program: Program) -> Method:
    chmod, chown, truncate, utimens = (
        program.calls.status(name) or absent for name in ("chmod", "chown", "truncate", "utimens")
    )
    by_path = program.parameters("truncate") == 2
    find = program.find

    def setattr(path: str | None, changes: Changes, file: Any, cred: Cred) -> Attr:
        if path is None and changes.size is None:
            raise error(errno.ESTALE)
        if changes.mode is not None:  # libfuse tells the type of the file too
            chmod(path, S_IFMT(find(path, file).mode) | changes.mode)
        if changes.uid is not None or changes.gid is not None:
            uid, gid = changes.uid, changes.gid
            chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
        if changes.size is not None:
            if file is None or by_path:
                truncate(path, changes.size)
            else:
                truncate(path, changes.size, file)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            utimens(path, _times(program, changes, path, file))
        return find(path, file)

    return setattr


def _times(program: Program, changes: Changes, path: str | None, file: Any) -> tuple[float, float]:
    """Times as `utimens` takes them. One that is not to be changed is given as it is, unless the
    program says that it knows UTIME_OMIT and UTIME_NOW.
    """
    atime, mtime = changes.atime_ns, changes.mtime_ns
    if program.omits_times:
        atime = _UTIME_NOW if changes.atime_now else atime
        mtime = _UTIME_NOW if changes.mtime_now else mtime
        known = (_UTIME_OMIT, _UTIME_OMIT)
    elif atime is None or mtime is None:
        attr = program.find(path, file)
        known = (attr.atime_ns, attr.mtime_ns)
    else:
        known = (0, 0)  # not needed
    atime = known[0] if atime is None else atime
    mtime = known[1] if mtime is None else mtime
    return (atime, mtime) if program.use_ns else (_seconds(atime), _seconds(mtime))


def _seconds(ns: int) -> float:
    return ns // _NS + ns % _NS / 1e9


def _getxattr(program: Program) -> Method | None:
    """Many a program returns "" for an attribute that is not there, as an example of fusepy does:
    an empty one.
    """
    ask = program.calls.result("getxattr")
    if ask is None:
        return None

    def getxattr(path: str, name: str) -> Any:
        value = ask(path, name)
        return b"" if isinstance(value, str) and not value else value

    return getxattr


def _listxattr(program: Program) -> Method | None:
    ask = program.calls.result("listxattr")
    return None if ask is None else lambda path: ask(path) or ()


NAMES: Final[dict[str, Callable[[Program], Method | None]]] = {
    "statvfs": _statvfs,
    "mknod": _mknod,
    "mkdir": _mkdir,
    "symlink": _symlink,
    "link": _link,
    "remove": lambda program: program.calls.status("unlink", given=1) or absent,
    "rmdir": lambda program: program.calls.status("rmdir", given=1) or absent,
    "rename": _rename,
    "readlink": lambda program: program.calls.result("readlink") or absent,
    "setattr": _setattr,
    "access": lambda program: program.calls.status("access", given=2),
    "getxattr": _getxattr,
    "setxattr": lambda program: program.calls.status("setxattr"),
    "listxattr": _listxattr,
    "removexattr": lambda program: program.calls.status("removexattr"),
}
