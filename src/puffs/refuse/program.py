"""A program for fusepy or mfusepy: its operations, and all that says how they are called."""

import os
from collections.abc import Callable
from stat import S_IFDIR
from typing import Any

from puffs.refuse.attributes import Told, attributes
from puffs.refuse.calls import Calls, Dialect, Failures, absent
from puffs.refuse.settings import Settings
from puffs.refuse.translating import Changed
from puffs.server.attr import Attr
from puffs.server.types import Open


class Program:
    """What the operations of a file server are made of, which ask the program.

    `settings` say what was asked for; the program may change them when it is mounted, and `begin`
    takes that over. Until then it is not asked: the root, of type `root_type`, is all there is.
    """

    def __init__(
        self,
        operations: object,
        settings: Settings,
        *,
        dialect: Dialect,
        raw_fi: bool,
        encoding: str,
        errors: str,
        root_type: int,
        leave: Callable[[], None],
    ) -> None:
        self.operations = operations
        self.settings = settings
        self.dialect = dialect
        self.raw_fi = raw_fi
        self.use_ns = bool(getattr(operations, "use_ns", False))
        self.omits_times = bool(getattr(operations, "flag_utime_omit_ok", False))
        self.failures = Failures(leave)
        change = Changed(settings.translation, encoding, errors)
        self.calls = Calls(operations, dialect, self.failures, change)
        root = {"st_mode": root_type | (0o755 if root_type == S_IFDIR else 0o644)}
        self.look: Callable[[str | None, Any], Told] = lambda path, file: root
        """The program's `getattr`."""
        self.attr_of: Callable[[Told], Attr]
        """What becomes of what that returns."""
        self.hinted = False
        """Whether the settings say something of each open file (`opened`)."""
        self.settle()

    def begin(self) -> None:
        """The program is mounted, and may be asked from now on."""
        self.settle()
        self.look = self.calls.find("getattr") or absent

    def settle(self) -> None:
        """Take over what the settings say now."""
        settings = self.settings
        self.attr_of = attributes(self.use_ns, settings.use_ino, settings.shown)
        self.hinted = (
            settings.direct_io
            or settings.kernel_cache
            or settings.parallel_direct_writes
            or settings.no_rofd_flush
        )

    def find(self, path: str | None, file: Any) -> Attr:
        """The attributes of the file at `path`."""
        try:
            return self.attr_of(self.look(path, file))
        except BaseException as exc:
            raise self.failures.of("getattr", exc) from None

    def parameters(self, name: str) -> int:
        """How many arguments an operation takes."""
        import inspect

        method = self.dialect.method(self.operations, name)
        return 0 if method is None else len(inspect.signature(method).parameters)

    def opened(self, file: Any, flags: int) -> Any:
        """An open file, with what the settings say of all of them."""
        if not self.hinted:
            return file
        settings = self.settings
        return Open(
            file,
            direct_io=settings.direct_io,
            keep_cache=settings.kernel_cache,
            noflush=self._noflush(flags),
            parallel_direct_writes=settings.parallel_direct_writes,
        )

    def opened_raw(self, fi: Any, flags: int) -> Open:
        """The same, and what the program has said of this one in its `fuse_file_info`."""
        settings = self.settings
        return Open(
            fi,
            direct_io=bool(fi.direct_io or settings.direct_io),
            keep_cache=bool(fi.keep_cache or settings.kernel_cache),
            nonseekable=bool(fi.nonseekable),
            noflush=bool(getattr(fi, "noflush", 0)) or self._noflush(flags),
            parallel_direct_writes=bool(
                getattr(fi, "parallel_direct_writes", 0) or settings.parallel_direct_writes
            ),
        )

    def _noflush(self, flags: int) -> bool:
        """With `no_rofd_flush`, nothing is to be flushed of what is only read."""
        return self.settings.no_rofd_flush and flags & os.O_ACCMODE == os.O_RDONLY
