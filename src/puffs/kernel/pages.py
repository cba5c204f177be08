"""The page cache of the kernel half, for attachments that work by call.

`Pages` is what is cached of one open regular file: pages as the file server has them, beside them
the bytes that were written and that it has not got yet, and the times that it has not been told.
`PageCache` is that of a mount: whether it is in use, and how much memory it takes. Neither asks the
file server for anything: what is missing is fetched by who reads, and what is dirty leaves
by a `Pager`.

Invariants:
- bytes are dirty until the file server has taken them, or has refused them; exactly the bytes that
  were written are sent, never what was read around them;
- what is dirty has a writer: an open file by which it can be sent. Closing one writes all of it;
- whoever reads or changes a `Pages` has entered it (`with pages:`). That is the reference's size
  mutex too (6.3), and it is held while the file server is asked (N16).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol

from puffs.kernel.notice import Notice
from puffs.kernel.runs import Runs
from puffs.kernel.vnode import Vnode
from puffs.server.attr import Attr, Changes
from puffs.server.cred import Cred
from puffs.server.types import Buffer

logger = logging.getLogger("puffs")

PAGE: Final = 4096
CLUSTER: Final = 1 << 16
"""A writer that crosses a multiple of this has the file server take what is before it (N13)."""
MEMORY: Final = 4 << 20
"""Bytes that the pages of a mount may take; what reads and writes under way carry comes on top."""
FILE_MAX: Final = (1 << 63) - 1


class Pager(Protocol):
    """The way of pages to the file server: an open file. What it does raises `OSError`."""

    def write(self, offset: int, data: bytes) -> None:
        """Have the file server take all of `data`."""
        ...

    def set_times(self, times: Changes) -> None:
        """Have the file server set times, for the file system itself (N9)."""
        ...

    def fsync(self, datasync: bool, cred: Cred) -> None:
        """Have the file server bring the file to stable storage, asked for by `cred`."""
        ...


class Pages:
    """What is cached of one vnode. Made by `PageCache.open`.

    `error` is the first failure of writing back that nobody has been told of; `writer` the open
    file that wrote last.
    """

    __slots__ = (
        "_atime",
        "_cache",
        "_clean",
        "_ctime",
        "_inside",
        "_later",
        "_lock",
        "_mtime",
        "_putting",
        "_runs",
        "_server_size",
        "_stamp",
        "error",
        "opens",
        "writer",
    )

    def __init__(self, cache: "PageCache") -> None:
        self.error: OSError | None = None
        self.writer: Pager | None = None
        self.opens = 0
        """How many open files use it; the cache counts them."""
        self._cache = cache
        self._lock = threading.RLock()
        self._inside = 0
        self._later: deque[tuple[Callable[[], None], Notice]] = deque()
        self._putting = False
        self._clean: dict[int, bytearray] = {}
        self._runs = Runs()
        self._server_size: int | None = None  # what the file server has, as far as is known
        self._stamp: tuple[int, int] | None = None
        # The metadata cache: times that the file server has not been told.
        self._atime: int | None = None
        self._mtime: int | None = None
        self._ctime: int | None = None

    # -------------------------------------------------------------------------------- one at a time

    def __enter__(self) -> "Pages":
        self._lock.acquire()
        self._inside += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        heard: list[Notice] = []
        while self._later and self._inside == 1:
            step, notice = self._later.popleft()
            step()
            heard.append(notice)
        self._inside -= 1
        if not self._inside:
            self._cache.account(self, self.memory)
        self._lock.release()
        for notice in heard:
            notice.set_result(None)
        if self._later and self.enter_idle():  # it came when this thread was about to leave
            self.leave()

    def enter_idle(self) -> bool:
        """Enter, as `with` does, if nobody is inside: not even this thread."""
        if not self._lock.acquire(blocking=False):
            return False
        if self._inside:
            self._lock.release()
            return False
        self._inside = 1
        return True

    def leave(self) -> None:
        """Leave what was entered by `enter_idle`."""
        self.__exit__(None, None, None)

    def soon(self, step: Callable[[], None]) -> Notice:
        """Have `step`, which asks the file server for nothing, run when nobody is inside.

        That is at once, or when he leaves who is. The notice tells when.
        """
        notice = Notice()
        self._later.append((step, notice))
        if self.enter_idle():
            self.leave()
        return notice

    # ------------------------------------------------------------------------------- size and bytes

    @property
    def dirty(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._runs)

    @property
    def memory(self) -> int:
        """The bytes that it takes."""
        return PAGE * len(self._clean) + self._runs.memory

    @property
    def size(self) -> int | None:
        """The size of the file; None when the file server has to be asked first."""
        if self._server_size is None:
            return None
        return max(self._server_size, self._runs.end)

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """What has to be fetched before `start` to `end` can be copied: ranges of whole pages."""
        ranges: list[tuple[int, int]] = []
        for number in range(start // PAGE, (end - 1) // PAGE + 1):
            low, high = number * PAGE, (number + 1) * PAGE
            if number in self._clean or self._runs.covers(max(low, start), min(high, end)):
                continue
            if ranges and ranges[-1][1] == low:
                ranges[-1] = ranges[-1][0], high
            else:
                ranges.append((low, high))
        return ranges

    def fill(self, start: int, end: int, data: bytes) -> None:
        """Keep what was fetched for a range that `missing` gave: less than all at the end of file.

        Less than that, too, when the file server has a shorter file than it had said.
        """
        for low in range(start, end, PAGE):
            self._clean[low // PAGE] = bytearray(
                data[low - start : low - start + PAGE].ljust(PAGE, b"\0")
            )
        got = start + len(data)
        if self._server_size is not None and got < min(end, self._server_size):
            self._server_size = got

    def copy(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, of which none is missing; zeros where nothing is."""
        found = bytearray(end - start)
        for number in range(start // PAGE, (end - 1) // PAGE + 1):
            page = self._clean.get(number)
            if page is not None:
                low, high = max(start, number * PAGE), min(end, (number + 1) * PAGE)
                found[low - start : high - start] = page[low - number * PAGE : high - number * PAGE]
        for offset, part in self._runs.between(start, end):
            found[offset - start : offset - start + len(part)] = part
        return bytes(found)

    def write(self, offset: int, data: Buffer) -> None:
        """Make bytes dirty. The size grows with them."""
        self._runs.write(offset, data)

    def truncate(self, size: int) -> None:
        """The file server has cut or lengthened the file, which was not dirty."""
        number, tail = divmod(size, PAGE)
        for beyond in [page for page in self._clean if page >= number + bool(tail)]:
            del self._clean[beyond]
        if number in self._clean:  # its tail must read as zeros when the file grows again
            self._clean[number][tail:] = bytes(PAGE - tail)
        self._server_size = size

    def forget(self) -> None:
        """Drop what the file server has too."""
        self._clean.clear()

    def trim(self) -> None:
        """The same, if the cache is full by now."""
        if self._cache.account(self, self.memory):
            self.forget()

    def changed(self) -> None:
        """The file server has changed the file by other ways: nothing is known of it any more."""
        self.forget()
        self.doubt()

    def doubt(self) -> None:
        """The file server is asked for the attributes before they count for anything again."""
        self._server_size = self._stamp = None

    # --------------------------------------------------------------------------------- writing back

    def put(self, start: int = 0, end: int = FILE_MAX, *, faf: bool = False) -> OSError | None:
        """Have the file server take what is dirty between `start` and `end` (VOP_PUTPAGES, N14).

        Returns the first error, which is kept as well. What could not be written is gone then, as
        it is from the cache of a kernel, and reads show what the file server has. With `faf` nobody
        is told and the error is only logged: what could not be written stays dirty and is tried
        again, so that its loss reaches who closes or syncs the file.
        """
        if self._putting or not self._runs:
            return None
        assert self.writer is not None
        first: OSError | None = None
        self._putting = True
        try:
            for offset, data in self._runs.between(start, end):
                try:
                    self.writer.write(offset, data)
                except OSError as exc:
                    if faf:
                        logger.warning("%d bytes at %d are not written: %s", len(data), offset, exc)
                        continue
                    self.keep(exc)
                    first = first or exc
                    self.lose(offset, offset + len(data))
                else:
                    self._taken(offset, data)
        finally:
            self._putting = False
        if not self._runs and not self._cache.sets_times:
            self._atime = self._mtime = self._ctime = None
        return first

    def _taken(self, offset: int, data: bytes) -> None:
        """The file server has these bytes now: whole pages of them stay to be read."""
        end = offset + len(data)
        self._runs.cut(offset, end)
        self._stamp = None
        if self._server_size is not None:
            self._server_size = max(self._server_size, end)
        for number in range(offset // PAGE, (end - 1) // PAGE + 1):
            base = number * PAGE
            low, high = max(offset, base), min(end, base + PAGE)
            part = data[low - offset : high - offset]
            if low == base and high in (base + PAGE, self._server_size):
                self._clean[number] = bytearray(part.ljust(PAGE, b"\0"))
            elif number in self._clean:
                self._clean[number][low - base : high - base] = part

    def lose(self, start: int, end: int) -> None:
        """What was written there could not be brought to the file server, and is given up."""
        self._runs.cut(start, end)
        self.changed()

    def drain(self) -> None:
        """Write what is to be written, and know nothing any more."""
        if self.writer is not None:
            self.flush_times(self.writer, faf=True)
        self.put()
        self._atime = self._mtime = self._ctime = None
        self.changed()

    def keep(self, exc: OSError) -> None:
        """Keep an error for who asks next: the first one, until it was reported."""
        self.error = self.error or exc

    def report(self) -> None:
        """Raise the error that was kept, once."""
        with self:
            exc, self.error = self.error, None
        if exc is not None:
            raise exc

    def fsync(
        self,
        pager: Pager,
        cred: Cred,
        *,
        datasync: bool = False,
        wait: bool = True,
        faf: bool = False,
    ) -> None:
        """Times, then pages, then the FSYNC message (VOP_FSYNC, N9). Errors are kept.

        Without `wait` the answer to FSYNC counts for nothing; with `faf` that of all of them. A
        failure in one does not keep the others from being tried (the reference returned at once).
        """
        if not datasync:
            self.flush_times(pager, faf=faf)
        self.put(faf=faf)
        try:
            pager.fsync(datasync, cred)
        except OSError as exc:
            if wait and not faf:
                self.keep(exc)
            else:
                logger.debug("fsync that nobody waits for: %s", exc)

    # ----------------------------------------------------------------------------------- attributes

    def note_read(self, now: int) -> None:
        """It was read through the cache (N12)."""
        if self._cache.sets_times:
            self._atime = now

    def note_written(self, now: int) -> None:
        """It was written through the cache (N13)."""
        self._mtime = self._ctime = now

    def note_changed(self, now: int) -> None:
        """Something about it was changed, such as its number of names (N10)."""
        self._ctime = now

    def override(self, attr: Attr) -> None:
        """Put what is cached into attributes that the file server has just given (N5).

        Where the file server knows more, that counts: a size beyond the dirty bytes (what others
        have appended), a later change. Contents that others have changed are dropped.
        """
        stamp = attr.size, attr.mtime_ns
        if self._stamp is not None and self._stamp != stamp:
            self.forget()
        self._stamp = stamp
        self._server_size = attr.size
        attr.size = max(attr.size, self._runs.end)
        if self._atime is not None:
            attr.atime_ns = self._atime
        if self._mtime is not None:
            attr.mtime_ns = self._mtime
        if self._ctime is not None:
            attr.ctime_ns = max(attr.ctime_ns, self._ctime)

    def was_set(self, changes: Changes) -> None:
        """The file server has made these changes of attributes, after all was written."""
        self._stamp = self._ctime = None
        if changes.atime_ns is not None:
            self._atime = None
        if changes.mtime_ns is not None or changes.size is not None:
            self._mtime = None
        if changes.size is not None:
            self.truncate(changes.size)

    def flush_times(self, pager: Pager, *, faf: bool = False) -> None:
        """Tell the file server the times of access and modification (N9). An error is kept.

        Not the size: the writes bring it, and one that was set before them would leave a file of
        zeros when they fail. Not the time of change, which no caller can set: behind a rename it
        would go back.
        """
        times = Changes(atime_ns=self._atime, mtime_ns=self._mtime)
        self._atime = self._mtime = self._ctime = None
        if not self._cache.sets_times or (times.atime_ns is None and times.mtime_ns is None):
            return
        self._stamp = None
        try:
            pager.set_times(times)
        except OSError as exc:
            if faf:
                logger.debug("times that nobody waits for are not set: %s", exc)
            else:
                self.keep(exc)


class PageCache:
    """The page cache of a mount.

    `allowed` says whether there may be one; it is in use while `on`, which `switch` decides.
    `sets_times` says whether the file server is to be told of times, `limit` how many bytes the
    pages may take.
    """

    def __init__(self, *, allowed: bool, sets_times: bool, limit: int = MEMORY) -> None:
        self.allowed = allowed
        self.sets_times = sets_times
        self.limit = limit
        self.on = allowed
        self._lock = threading.Lock()
        self._held: dict[Pages, int] = {}  # the bytes of each; what was used longest ago is first
        self._used = 0

    def open(self, vnode: Vnode) -> Pages:
        """One more open file of a vnode: its pages."""
        with self._lock:
            pages = vnode.pages
            if pages is None:
                pages = vnode.pages = Pages(self)
                self._held[pages] = 0
            pages.opens += 1
            return pages

    def close(self, vnode: Vnode) -> None:
        """One open file of a vnode less; after the last one nothing is cached."""
        with self._lock:
            pages = vnode.pages
            assert pages is not None
            pages.opens -= 1
            if not pages.opens:
                vnode.pages = None
                self._used -= self._held.pop(pages)

    def files(self) -> list[Pages]:
        """The pages of all vnodes that have any, those that were used longest ago first."""
        with self._lock:
            return list(self._held)

    def switch(self, on: bool) -> None:
        """Use the cache from now on, or no more. What it has is written and dropped."""
        on = on and self.allowed
        if on == self.on:
            return
        self.on = False
        for pages in self.files():
            with pages:
                pages.drain()
        self.on = on

    def account(self, pages: Pages, held: int) -> bool:
        """`pages` were used, and take `held` bytes now. Tells whether the cache is full."""
        with self._lock:
            before = self._held.pop(pages, None)
            if before is not None:
                self._held[pages] = held
                self._used += held - before
            return self._used > self.limit

    def make_room(self, wanted: int) -> None:
        """When there is no room for `wanted` bytes, write and drop what was used longest ago.

        Not what somebody is at. Not for who has entered pages: two of them could wait for each
        other.
        """
        if self._used + wanted <= self.limit:
            return
        for pages in self.files():
            if self._used + wanted <= self.limit:
                return
            if pages.enter_idle():
                try:
                    pages.put()
                    pages.forget()
                finally:
                    pages.leave()
