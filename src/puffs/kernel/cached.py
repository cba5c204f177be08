"""What the page cache of the kernel half does when the file server tells it something unasked."""

import threading
from functools import partial

from puffs.kernel.flush import NothingCached, whole_pages
from puffs.kernel.fstrans import Fstrans
from puffs.kernel.notice import Notice, done
from puffs.kernel.pages import FILE_MAX
from puffs.kernel.vnode import Vnode


class CachedPages(NothingCached):
    """The page cache of a mount (`puffs.kernel.flush.HostCache`). It has no names."""

    def __init__(self, fstrans: Fstrans) -> None:
        self._fstrans = fstrans

    def invalidate_attr(self, vnode: Vnode) -> Notice:
        """Forget the size. Times that the file server has not been told stay."""
        pages = vnode.pages
        return done() if pages is None else pages.soon(pages.doubt)

    def invalidate_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        """Forget the contents, and what is dirty between `start` and `end` (0: to the end)."""
        pages = vnode.pages
        return done() if pages is None else pages.soon(partial(pages.lose, start, end or FILE_MAX))

    def flush_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        """Write what is dirty, on a thread of its own: this may be inside an operation."""
        pages = vnode.pages
        if pages is None or not pages.dirty:
            return done()
        notice = Notice()

        def write() -> None:
            self._fstrans.start()
            try:
                with pages:
                    failure = pages.put(start, end or FILE_MAX)
            finally:
                self._fstrans.done()
            if failure is None:
                notice.set_result(None)
            else:
                notice.set_exception(failure)

        threading.Thread(target=write, name="puffs-flush", daemon=True).start()
        return notice

    def store_pages(self, vnode: Vnode, offset: int, data: bytes) -> Notice:
        """Forget what was there: it is asked for when somebody reads it."""
        return self.invalidate_pages(vnode, *whole_pages(offset, offset + len(data)))
