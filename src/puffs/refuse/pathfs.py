"""From an object with the operations of fusepy, or of mfusepy, to a file server.

The program is asked as libfuse's high-level interface asks it: what the kernel asks for, in which
order, with which arguments, and what each answer then means. `calls` has how an operation is called
and what its errors become, `program` what is asked of all of them; `hiding` has what becomes of
open files that lose their names. The operations are in `path_names`, `path_files` and `devices`.
"""

from functools import partial
from stat import S_IFDIR
from threading import Thread
from typing import Final

from puffs.kernel.attachment import LongNames
from puffs.kernel.mount import Mount
from puffs.refuse import devices
from puffs.refuse.calls import Dialect, Method
from puffs.refuse.hiding import HIDING, HidingNames
from puffs.refuse.path_files import FILES
from puffs.refuse.path_names import NAMES
from puffs.refuse.program import Program
from puffs.refuse.remembering import Remembered
from puffs.refuse.serving import leave
from puffs.refuse.settings import Settings
from puffs.server.operations import Operations
from puffs.server.path_mount import PathMount
from puffs.server.path_nodes import Node, adapted

_LEAVING_SECONDS: Final = 2.0
"""How long a thread that has unmounted may take to end."""


class PathServer(LongNames):
    """A file server that asks `operations`, an object as fusepy and mfusepy take them.

    `failures` tells what has ended it. It can be mounted once.
    """

    name_ttl: float
    attr_ttl: float
    negative_ttl: float
    fhsize = 0
    fhflags = 0
    names_for_all = True
    posix_acl = False
    passthrough = False
    asynchronous = False

    def __init__(
        self,
        operations: object,
        settings: Settings,
        *,
        dialect: Dialect,
        raw_fi: bool = False,
        encoding: str = "utf-8",
        errors: str = "surrogateescape",
        root_type: int = S_IFDIR,
    ) -> None:
        self.name = type(operations).__name__.lower()
        self.settings = settings
        self._program = Program(
            operations,
            settings,
            dialect=dialect,
            raw_fi=raw_fi,
            encoding=encoding,
            errors=errors,
            root_type=root_type,
            leave=self.leave,
        )
        self.failures = self._program.failures
        self._mount: Mount | None = None
        self._names: HidingNames
        self._leaving: Thread | None = None
        self._ask()
        self._settle()

    def _ask(self) -> None:
        """Say of the mount as a whole what follows from the program and its settings."""
        program, settings = self._program, self.settings
        calls, mount = program.calls, settings.mount
        mount.posix_locks, mount.flocks = devices.kept_locks(calls, mount)
        mount.atomic_o_trunc &= calls.find("open") is not None  # else nobody would see it
        if settings.direct_io and calls.find("init_with_config") is None:  # which might change it
            mount.pagecache = False
            settings.direct_io = False  # of each open file there is no more to be said
            program.settle()

    def leave(self) -> None:
        """End the mount, from inside an operation or from any thread."""
        if self._mount is not None:
            self._leaving = leave(self._mount)

    def ended(self) -> BaseException | None:
        """It has been served: wait until no thread uses it; what has ended it, if the program."""
        if self._leaving is not None:
            self._leaving.join(_LEAVING_SECONDS)
        return self.failures.critical

    def serves_here(self) -> bool:
        """Whether operations run on this thread."""
        try:
            for attachment in self._mount.attachments if self._mount is not None else ():
                attachment.check_outside()
        except OSError:
            return True
        return False

    def _settle(self) -> None:
        """Take over what the settings say, also if `init_with_config` has changed them."""
        settings = self.settings
        self.name_ttl, self.attr_ttl = settings.entry_timeout, settings.attr_timeout
        self.negative_ttl = settings.negative_timeout

    def operations(self) -> Operations:
        """What the program can do, and what libfuse does in its place."""
        program = self._program
        made = {name: make(program) for name, make in (NAMES | FILES).items()}
        table = {name: method for name, method in made.items() if method is not None}
        table |= {"getattr": program.find, "mounted": self._mounted}
        if (unmounted := self._unmounted()) is not None:
            table["unmounted"] = unmounted
        table |= devices.operations(
            program.calls, program.dialect, self.settings.mount, program.raw_fi
        )

        def names(keep_files: bool) -> HidingNames:
            self._names = HidingNames(
                keep_files,
                self.settings,
                program.find,
                table["rename"],
                table["remove"],
                table["close"],
            )
            return self._names

        operations = adapted(table, program.find, names=names, factories=HIDING)
        if not self.settings.remember:
            return operations
        return {**operations, **Remembered(self._names, self.settings.remember).operations()}

    def _mounted(self, mount: PathMount) -> None:
        self._mount = mount.mount
        self._names.number_of = partial(_number, mount.mount)
        try:
            self._init(mount.mount)
        except BaseException as exc:
            self.failures.end_by("init", exc)
        self._settle()
        self._program.begin()

    def _init(self, mount: Mount) -> None:
        from puffs.refuse.configuring import configured

        calls = self._program.calls
        with_config = calls.find("init_with_config")
        if with_config is not None:
            configured(with_config, mount, self.settings, self._program.dialect)
        elif (init := calls.find("init")) is not None:
            init("/")

    def _unmounted(self) -> Method | None:
        destroy = self._program.calls.result("destroy")
        if destroy is None:
            return None

        def unmounted() -> None:
            if self._mount is not None:  # else `init` was not called either
                destroy("/")

        return unmounted


def _number(mount: Mount, node: Node) -> int:
    """The inode number of a node that the host knows, else 0."""
    vnode = mount.vnodes.find(node)
    return 0 if vnode is None else vnode.ino
