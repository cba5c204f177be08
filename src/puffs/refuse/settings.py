"""What libfuse's options ask of its high-level interface, as `options.parse` finds it."""

import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from puffs.attach.fuse.options import MountOptions
from puffs.refuse.modules import Translation

Dialect = Literal["fuse2", "fuse3"]
"""The generation of libfuse that a program was written for. Either knows all options here; what
differs is what happens without them.
"""

Shown = Callable[[int, int, int], tuple[int, int, int]]
"""Is given mode, uid and gid of a file, and returns those to show."""


@dataclass(slots=True)
class Settings:
    """What libfuse's options ask of its high-level interface.

    Attributes:
        dialect: whose defaults these are.
        mount: what puffs is to mount with.
        foreground: the call returns when it has been unmounted, in the same process.
        debug: each request is printed.
        nonempty: a directory with something in it may be mounted over.
        allow_root: root may use the mount beside who made it, and nobody else.
        uid, gid: the owner and group that all files are shown with.
        umask, fmask, dmask: permission bits are shown set but for these: of all files, of all but
            directories, and of directories.
        entry_timeout, attr_timeout, negative_timeout: the seconds for which the kernel may trust a
            name, attributes, and that a name is not there.
        direct_io: all files are opened with `direct_io`.
        kernel_cache: all files are opened with `keep_cache`.
        auto_cache: a file is opened with `keep_cache` if it has the same time of modification and
            the same size as when they were last known.
        no_rofd_flush: files that are open for reading only are opened with `noflush`.
        parallel_direct_writes: all files are opened with that.
        use_ino: the inode numbers that the program tells are shown.
        readdir_ino: listings have the inode numbers of files that are known.
        remember: the seconds for which a file that the kernel has forgotten keeps its inode number.
        hard_remove: an open file is removed at once, and not renamed until it is closed.
        modules: the names of the modules that stand between the kernel and the program, the
            innermost first.
        module_options: what their own options say.
        translation: what they make of paths together; None without any.
    """

    dialect: Dialect = "fuse3"
    mount: MountOptions = field(default_factory=lambda: MountOptions(default_permissions=False))
    foreground: bool = False
    debug: bool = False
    nonempty: bool = False
    allow_root: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    fmask: int | None = None
    dmask: int | None = None
    entry_timeout: float = 1.0
    attr_timeout: float = 1.0
    negative_timeout: float = 0.0
    direct_io: bool = False
    kernel_cache: bool = False
    auto_cache: bool = False
    no_rofd_flush: bool = False
    parallel_direct_writes: bool = False
    use_ino: bool = False
    readdir_ino: bool = False
    remember: float = 0.0
    hard_remove: bool = False
    modules: tuple[str, ...] = ()
    module_options: dict[str, str | bool] = field(default_factory=dict)
    translation: Translation | None = None

    @property
    def shown(self) -> Shown | None:
        """What `uid`, `gid` and the masks make of a file; None where they change nothing."""
        asked = (self.uid, self.gid, self.umask, self.fmask, self.dmask)
        if all(each is None for each in asked):
            return None
        uid, gid = self.uid, self.gid
        of_files, of_directories = (
            None if mask is None else 0o777 & ~mask
            for mask in (
                self.umask if self.fmask is None else self.fmask,
                self.umask if self.dmask is None else self.dmask,
            )
        )

        def show(mode: int, owner: int, group: int) -> tuple[int, int, int]:
            bits = of_directories if stat.S_ISDIR(mode) else of_files
            return (
                mode if bits is None else stat.S_IFMT(mode) | bits,
                owner if uid is None else uid,
                group if gid is None else gid,
            )

        return show
