"""`sync` and `pageflush`: what is dirty goes to the file server, and that to stable storage."""

from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

from puffs.kernel.fstrans import State
from puffs.kernel.pages import Pages
from puffs.server.cred import Cred

if TYPE_CHECKING:
    from puffs.kernel.mount import Mount


class Wait(IntEnum):
    """How much a `sync` waits for, numbered as the reference does (MNT_WAIT, MNT_NOWAIT, MNT_LAZY).

    `WAIT`: until all is on stable storage. `NOWAIT`: until the file server has all. `LAZY`: for
    nothing; the file server is sent what it has not got, and no failure is told.
    """

    WAIT = 1
    NOWAIT = 2
    LAZY = 3


def pageflush(mount: "Mount", cred: Cred, waitfor: Wait, suspending: bool = False) -> None:
    """Have the file server take the dirty pages of all files, and bring those files to storage.

    Only what is dirty is flushed, and only regular files are ever (P4). A file that somebody is at
    is passed over, which is no error (P5), and so is one that vanishes meanwhile: it was written
    when it was closed (P3, P11). While suspending, and for LAZY, all messages are fire and forget
    (P7, P8). Raises the first `OSError`, after all files were tried (P10; 6.1 item 12).
    """
    if suspending:
        assert waitfor is not Wait.WAIT, "who suspends does not wait (P1)"
        assert mount.fstrans.is_owner(), "nobody else flushes for it (P2)"
        assert mount.fstrans.state is State.SUSPENDING, "when it is suspended nothing moves (P2)"
    faf = suspending or waitfor is Wait.LAZY
    first: OSError | None = None
    for pages in mount.pages.files():
        flush = partial(_flush, pages, cred, wait=waitfor is Wait.WAIT, faf=faf)
        if faf:
            mount.aside(flush)
            continue
        try:
            flush()
        except OSError as exc:
            first = first or exc
    if first is not None:
        raise first


def _flush(pages: Pages, cred: Cred, *, wait: bool, faf: bool) -> None:
    if not pages.enter_idle():
        return
    try:
        if pages.dirty and pages.writer is not None:
            pages.fsync(pages.writer, cred, wait=wait, faf=faf)
        if not faf:
            pages.report()
    finally:
        pages.leave()


def sync(mount: "Mount", waitfor: Wait, cred: Cred) -> None:
    """Flush pages, have hosts write what they have buffered, then ask the file server (Y1).

    It is asked also when something before has failed, and for all of `Wait`; its error counts more
    than the first of those before (Y2). ENXIO of a mount that is not running (Y3). LAZY waits for
    nothing: hosts go on writing by themselves, and the file server's answer is not awaited (6.1
    item 11). Not inside an operation, unless LAZY.
    """
    mount.check_running()
    if waitfor is Wait.LAZY:
        pageflush(mount, cred, waitfor)
        if "sync" in mount.ops:
            mount.post("sync", False, cred)
        return
    first: OSError | None = None
    for step in (partial(pageflush, mount, cred, waitfor), mount.flush_hosts):
        try:
            step()
        except OSError as exc:
            first = first or exc
    operation = mount.ops.get("sync")
    if operation is not None:
        mount.call(operation, waitfor is Wait.WAIT, cred)
    if first is not None:
        raise first
