"""The vnode operations on open files and their data, through the page cache where it is in use.

Regular files only are cached, and not those whose `Open` asks for `direct_io` or has no positions.
Whatever else looks at the data of a cached file, or changes it by another way, has what is dirty
written first (`_settled`), so that the file server sees the same order as the caller.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISREG
from typing import Any, Final

from puffs.kernel import police
from puffs.kernel.args import KernelFlag
from puffs.kernel.pages import CLUSTER, FILE_MAX, Pages
from puffs.kernel.vnode import Vnode
from puffs.kernel.vop import OpenFile, VnodeOperations, asked, error, vop
from puffs.server.attr import Changes
from puffs.server.cred import FSCRED, Cred
from puffs.server.types import Buffer

_CHUNK: Final = 1 << 20
"""A longer read or write goes through the cache in parts, so that it need not hold all of it."""


class FilePager:
    """An open file as the way of pages to the file server (`puffs.kernel.pages.Pager`).

    Writes are asked for by who has the file open, whoever causes them, and times by the file system
    itself (FSCRED; N9).
    """

    __slots__ = ("_file", "_vnops")

    def __init__(self, vnops: "DataOperations", file: OpenFile) -> None:
        self._vnops = vnops
        self._file = file

    def write(self, offset: int, data: bytes) -> None:
        """See `Pager`. N14, improved: a write that takes less is gone on with.

        So the file server comes to say what is wrong (ENOSPC); EIO if it takes nothing and does not
        say why.
        """
        asked(self._vnops, "write", self._write_all, offset, data)

    def set_times(self, times: Changes) -> None:
        """See `Pager`. The reply is not looked at: it is older than what is cached (6.3)."""
        system = self._vnops.by(FSCRED)
        asked(system, "setattr", system._setattr, self._file, times)

    def fsync(self, datasync: bool, cred: Cred) -> None:
        """See `Pager`."""
        vnops = self._vnops.by(cred)
        asked(vnops, "fsync", vnops._fsync, self._file, datasync)

    def _write_all(self, offset: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += self._vnops._write(self._file, offset + done, data[done:])


class DataOperations(VnodeOperations):
    """What is done with open files."""

    __slots__ = ()

    @vop
    def open(self, vnode: Vnode, flags: int) -> OpenFile:
        """Open a file. Without `write`, a regular file cannot be written: EROFS (2.6)."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._check_writable(vnode)
        cached = self.mount.pages.allowed and S_ISREG(self._attr(vnode, None).mode)
        with self._settled(vnode):
            reply = self._ask_open(vnode, flags)
        file = self._opened(vnode, reply, flags)
        if cached:
            self._use_pages(file)
        return file

    @vop
    def flush(self, file: OpenFile, owner: int = 0) -> None:
        """A descriptor is being closed: the last chance of an earlier write to fail."""
        try:
            if file.writes:
                self._settle(file.vnode)
            self._optional("flush", file.vnode.cookie, file.file, owner)
        finally:
            _report(file)

    @vop
    def close(self, file: OpenFile) -> None:
        """Give an open file back. Once: again does nothing.

        Fails, when all is done, if what was cached cannot be written; `flush` before has told that.
        """
        self._close(file)
        _report(file)

    @vop
    def read(self, file: OpenFile, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`: fewer only at the end of the file (N12)."""
        if offset < 0:
            raise error(errno.EINVAL)
        size = min(size, FILE_MAX - offset)
        vnode, pages = file.vnode, file.pages
        if vnode.pages is None:
            return self._read(file, offset, size)
        if pages is None:
            with self._settled(vnode):
                return self._read(file, offset, size)
        self.mount.pages.make_room(min(size, _CHUNK))
        with pages:
            if not self.mount.pages.on:
                return self._read(file, offset, size)
            return self._read_pages(file, pages, offset, size)

    @vop
    def write(self, file: OpenFile, offset: int, data: Buffer) -> int:
        """Write `data` at `offset`; how much of it was taken.

        That is less than all only when a request was not taken as a whole; EIO if nothing was. What
        goes through the page cache is taken as a whole, and may fail later: at `fsync` or `flush`.
        """
        if offset < 0:
            raise error(errno.EINVAL)
        self._op("write")
        # What the file server keeps of it must never change below it, hence the copy.
        image = data if type(data) is bytes else bytes(data)
        if offset + len(image) > FILE_MAX:
            raise error(errno.EFBIG)
        vnode, pages = file.vnode, file.pages
        if vnode.pages is None or not image:
            return self._write(file, offset, image)
        if pages is None:
            with self._settled(vnode, changes=True):
                return self._write(file, offset, image)
        self.mount.pages.make_room(min(len(image), _CHUNK))
        with pages:
            if not self.mount.pages.on:
                return self._write(file, offset, image)
            self._write_pages(file, pages, offset, image)
            return len(image)

    @vop
    def fsync(self, file: OpenFile, datasync: bool = False) -> None:
        """Bring a file to stable storage: what is cached, then the file server (N9)."""
        if file.pages is None:
            with self._settled(file.vnode):
                self._fsync(file, datasync)
            return
        with file.pages as pages:
            pages.fsync(FilePager(self, file), self._cred, datasync=datasync)
            pages.report()

    @vop
    def seek(self, file: OpenFile, offset: int, whence: int) -> int:
        """The next data (`os.SEEK_DATA`) or hole (`os.SEEK_HOLE`) at or after `offset`.

        Without the operation all of a file is data, with a hole at its end (lseek(2)).
        """
        if offset < 0:
            raise error(errno.ENXIO)
        cookie = file.vnode.cookie
        operation = self._ops.get("seek")
        if operation is not None:
            with self._settled(file.vnode):
                reply = self._do(operation, cookie, offset, whence, file.file)
            return police.position(reply, cookie)
        size = self._attr(file.vnode, file.file).size
        if not 0 <= offset < size:
            raise error(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else size

    @vop
    def fallocate(self, file: OpenFile, mode: int, offset: int, length: int) -> None:
        """Reserve, punch or zero a range (fallocate(2))."""
        if offset < 0 or length <= 0:
            raise error(errno.EINVAL)
        with self._settled(file.vnode, changes=True):
            self._ask("fallocate", file.vnode.cookie, mode, offset, length, file.file)

    @vop
    def copy_file_range(
        self, file: OpenFile, offset: int, to: OpenFile, to_offset: int, size: int
    ) -> int:
        """Copy `size` bytes between open files; how many it were (copy_file_range(2))."""
        target = to.vnode.cookie
        source = file.vnode.cookie, offset, file.file
        self._settle(file.vnode)  # not both at once: two copies could wait for each other
        with self._settled(to.vnode, changes=True):
            reply = self._ask("copy_file_range", *source, target, to_offset, to.file, size, 0)
        return police.amount(reply, size, target, "copy_file_range")

    # ----------------------------------------------------------------------------- opening, closing

    def _check_writable(self, vnode: Vnode) -> None:
        if "write" not in self._ops and S_ISREG(self._attr(vnode, None).mode):
            raise error(errno.EROFS)

    def _ask_open(self, vnode: Vnode, flags: int) -> object:
        return self._optional("open", vnode.cookie, flags, self._cred)

    def _opened(self, vnode: Vnode, reply: object, flags: int) -> OpenFile:
        file = OpenFile(vnode, reply, flags)
        self._vnodes.open(vnode)
        return file

    def _use_pages(self, file: OpenFile) -> None:
        """Have an open regular file use the page cache, if there may be one."""
        hints = file.hints
        direct = hints.direct_io or hints.nonseekable or hints.stream
        if direct or not self.mount.pages.allowed:
            return
        file.pages = self.mount.pages.open(file.vnode)
        if not hints.keep_cache:
            with file.pages as pages:
                pages.forget()

    def _close(self, file: OpenFile) -> None:
        if file.closed:
            return
        file.closed = True
        try:
            if file.pages is not None:
                self._leave(file, file.pages)
        finally:
            self._fire("close", file.vnode.cookie, file.file, file.flags)
            self._do(self._vnodes.close, file.vnode)

    def _leave(self, file: OpenFile, pages: Pages) -> None:
        """The file gives up its part in the cache: what is dirty is written before.

        So are the times, fire and forget as `inactive` is: who closes a file that he has only read
        is not told that its time of access could not be set.
        """
        with pages:
            try:
                if file.writes:
                    pages.put()
                    pages.writer = None
                if file.writes or pages.opens == 1:
                    pages.flush_times(FilePager(self, file), faf=True)
            finally:
                self.mount.pages.close(file.vnode)

    # ---------------------------------------------------------------------------- through the cache

    @contextmanager
    def _settled(self, vnode: Vnode, *, changes: bool = False) -> Iterator[Pages | None]:
        """Have what is dirty written, and nobody else use the cache of `vnode` meanwhile.

        With `changes`, what is done inside changes the file past the cache. An error of writing is
        kept for who has written.
        """
        pages = vnode.pages
        try:
            if pages is None:
                yield None
                return
            with pages:
                pages.put()
                try:
                    yield pages
                finally:
                    if changes:
                        pages.changed()
        finally:
            late = vnode.pages
            if late is not None and late is not pages:
                with late:  # somebody has begun to cache what may just have been changed
                    late.changed()

    def _settle(self, vnode: Vnode) -> None:
        """Have what is dirty written, as far as that is possible."""
        pages = vnode.pages
        if pages is not None:
            with pages:
                pages.put()

    def _read_pages(self, file: OpenFile, pages: Pages, offset: int, size: int) -> bytes:
        """N12: through the cache up to the known size. The time of access is noted.

        From there on the file server is asked: files that look empty may have contents, and others
        may have appended some (6.3).
        """
        if size <= 0:
            return b""
        if pages.size is None:
            self._attr(file.vnode, file.file)
        assert pages.size is not None
        if offset < pages.size:
            data = self._copied(file, pages, offset, min(offset + size, pages.size))
        else:
            data = self._read(file, offset, size)
        pages.note_read(self.mount.clock())
        return data

    def _copied(self, file: OpenFile, pages: Pages, start: int, end: int) -> bytes:
        parts: list[bytes] = []
        while start < end:
            stop = min(end, start - start % _CHUNK + _CHUNK)
            for low, high in pages.missing(start, stop):
                pages.fill(low, high, self._read(file, low, high - low))
            assert pages.size is not None
            end = min(end, pages.size)  # the file may turn out to be shorter
            stop = max(start, min(stop, end))
            parts.append(pages.copy(start, stop))
            pages.trim()
            start = stop
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _write_pages(self, file: OpenFile, pages: Pages, offset: int, image: bytes) -> None:
        """N13: into the pages; what crosses a multiple of 64 KiB goes on to the file server.

        All of it does for O_SYNC, O_DSYNC and mounts that write through.
        """
        through = file.flags & os.O_DSYNC or self.mount.args.flags & KernelFlag.WTCACHE
        pages.writer = FilePager(self, file)
        pages.note_written(self.mount.clock())
        view, done = memoryview(image), 0
        while done < len(image):
            at = offset + done
            stop = min(offset + len(image), at - at % _CHUNK + _CHUNK)
            pages.write(at, view[done : stop - offset])
            first, last = (at, stop) if through else (at - at % CLUSTER, stop - stop % CLUSTER)
            if pages.put(first, last) is not None:
                pages.lose(at, stop)  # a write that fails has not been made
                pages.report()
            pages.trim()
            done = stop - offset

    # ------------------------------------------------------------------------------------- messages

    def _read(self, file: OpenFile, offset: int, size: int) -> bytes:
        """READ messages, of a request's size at most; a short answer is the last (N12)."""
        operation, cookie = self._op("read"), file.vnode.cookie
        most = self.mount.args.payload
        parts: list[bytes] = []
        while size > 0:
            wanted = min(size, most)

            def copied(reply: object, wanted: int = wanted) -> bytes:
                # A view must not be kept: the file server may use its buffer again.
                return bytes(police.data(reply, wanted, cookie))

            data: bytes = self._do(operation, cookie, offset, wanted, file.file, then=copied)
            parts.append(data)
            if len(data) < wanted:
                break
            offset += wanted
            size -= wanted
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _write(self, file: OpenFile, offset: int, image: bytes) -> int:
        """WRITE messages, of a request's size at most; how much was taken, EIO if nothing (N13)."""
        operation, cookie = self._op("write"), file.vnode.cookie
        most = self.mount.args.payload
        done = 0
        while done < len(image):
            given = min(len(image) - done, most)
            part = memoryview(image)[done : done + given]
            try:
                reply = self._do(operation, cookie, offset + done, part, file.file)
            finally:
                _release(part)
            taken = police.amount(reply, given, cookie)
            done += taken
            if taken < given:
                break
        if image and not done:
            raise error(errno.EIO)
        return done

    def _setattr(self, file: OpenFile, changes: Changes) -> Any:
        """The SETATTR message."""
        return self._ask("setattr", file.vnode.cookie, changes, file.file, self._cred)

    def _fsync(self, file: OpenFile, datasync: bool) -> None:
        """The FSYNC message."""
        self._optional("fsync", file.vnode.cookie, datasync, file.file)


def _report(file: OpenFile) -> None:
    """Raise what went wrong with an earlier write, to one who may have made it."""
    if file.pages is not None and file.writes:
        file.pages.report()


def _release(part: memoryview) -> None:
    """`data` is valid until `write` returns: a view that was kept is dead from here on."""
    try:
        part.release()
    except BufferError:  # part of it was kept; it shows bytes that never change
        pass
