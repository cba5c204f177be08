"""Where a file system is to be served: what a MOUNTPOINT stands for.

A place connects: it mounts, or takes over what somebody else has mounted.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from puffs.attach.fuse.doors.handed import adopt, check_options, descriptor_of
from puffs.attach.fuse.handed_session import HandedSession
from puffs.attach.fuse.init import Terms
from puffs.attach.fuse.mounting import mount_fuse, unmount
from puffs.attach.fuse.mountpoint import check_mountpoint
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.session import OnTable, Session
from puffs.attach.fuse.syscalls import MS_RDONLY
from puffs.attach.fuse.watcher import Watcher
from puffs.kernel.mount import Mount


@dataclass(frozen=True, slots=True)
class Connection:
    """What a place has made.

    Attributes:
        fds: descriptors of the connection: one, and clones of it.
        mountpoint: where the mount is, for people.
        farewell: None when the mount is ours. Else asks whoever mounted to unmount, and tells
            whether that has been done.
        ready: called when the mount can be used.
        ended: called when nothing is served any more.
    """

    fds: list[int]
    mountpoint: str
    farewell: Callable[[], bool] | None = None
    ready: Callable[[], None] = lambda: None
    ended: Callable[[], None] = lambda: None

    def give_up(self) -> None:
        """Nothing came of it: close it, and unmount what is ours."""
        for fd in self.fds:
            os.close(fd)
        try:
            if self.farewell is None:
                unmount(self.mountpoint, lazy=True)
        finally:
            self.ended()


class Place(Protocol):
    """What `run` serves at."""

    def connect(
        self, mount: Mount, options: MountOptions, connecting: Callable[[], None]
    ) -> Connection:
        """Connect the kernel with `mount`. Raises `MountError`; nothing is left behind then.

        `connecting` is called once nothing is to be waited for any more, and before it is mounted:
        up to there a signal ends this process, and from there on it unmounts.
        """
        ...


def session_of(
    connection: Connection,
    mount: Mount,
    *,
    terms: Terms,
    on_table: OnTable | None,
    on_ready: Callable[[], None],
) -> Session:
    """The session that serves a connection; arguments as those of `Session`."""

    def ready() -> None:
        connection.ready()
        on_ready()

    if connection.farewell is None:
        (fd,) = connection.fds
        return Session(
            mount,
            fd,
            connection.mountpoint,
            terms=terms,
            on_ready=ready,
            on_table=on_table,
        )
    return HandedSession(
        mount,
        connection.fds,
        connection.mountpoint,
        farewell=connection.farewell,
        terms=terms,
        on_ready=ready,
        on_table=on_table,
    )


Where = str | os.PathLike[str] | Place
"""A directory, ``/dev/fd/N``, or another place."""


def place_of(where: Where) -> Place:
    """The place that a user means."""
    if not isinstance(where, str | os.PathLike):
        return where
    fd = descriptor_of(where)
    return MountPoint(where) if fd is None else Inherited(fd)


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A directory (or a file) that we mount on ourselves."""

    path: str | os.PathLike[str]

    def connect(
        self, mount: Mount, options: MountOptions, connecting: Callable[[], None]
    ) -> Connection:
        """Mount."""
        connecting()
        path = check_mountpoint(self.path, mount.root_type)
        options = decided(options, checks_access="access" in mount.ops, read_only=mount.read_only)
        fd = mount_fuse(
            path,
            options,
            fsname=mount.args.name,
            subtype=mount.name,
            rootmode=mount.root_type,
        )
        if not options.auto_unmount:
            return Connection([fd], path)
        try:
            return Connection([fd], path, ended=Watcher(path).stop)
        except BaseException:
            os.close(fd)
            unmount(path, lazy=True)
            raise


@dataclass(frozen=True, slots=True)
class Inherited:
    """A connection whose descriptor we have inherited; it is ours from here on."""

    fd: int

    def connect(
        self, mount: Mount, options: MountOptions, connecting: Callable[[], None]
    ) -> Connection:
        """Take it over. Who has mounted it unmounts it."""
        connecting()
        check_options(options)
        return Connection([adopt(self.fd)], f"/dev/fd/{self.fd}", farewell=lambda: False)


def decided(options: MountOptions, *, checks_access: bool, read_only: bool) -> MountOptions:
    """The options, with what the user leaves to the file server decided.

    Args:
        options: what the user asked for.
        checks_access: the file server checks permissions itself.
        read_only: it changes nothing.
    """
    if options.default_permissions is None:
        options = replace(options, default_permissions=not checks_access)
    return replace(options, flags=options.flags | MS_RDONLY) if read_only else options
