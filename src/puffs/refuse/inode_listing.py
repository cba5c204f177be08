"""What a `readdir` handler of pyfuse3 reports its entries to."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from puffs.attach.fuse import compiled
from puffs.kernel.attachment import Listing
from puffs.refuse.inode_rows import entry_of
from puffs.refuse.inode_values import EntryAttributes

__all__ = ("ReaddirToken", "readdir_reply", "token_of")

_compiled: Final = compiled.module(compiled.INODES)

Known = Callable[[EntryAttributes], None]
"""Is told of a node that is about to be entered."""


class PlainToken:
    """What there is of a listing in one answer, where nothing was compiled."""

    __slots__ = ("_known", "_listing")

    def __init__(self, listing: Listing, known: Known) -> None:
        self._listing = listing
        self._known = known

    def reply(self, name: bytes, attr: EntryAttributes, next_id: int) -> bool:
        """Add an entry, if there is room for it."""
        self._known(attr)
        return self._listing.add(name, entry_of(attr), next_id)


if TYPE_CHECKING or _compiled is None:
    ReaddirToken = PlainToken

    def readdir_reply(
        token: ReaddirToken, name: bytes, attr: EntryAttributes, next_id: int
    ) -> bool:
        """Report an entry of a directory, in a `readdir` handler.

        False when there is no room for it: return then. True: it counts as a lookup, unless it is
        "." or "..". `next_id` is where a later `readdir` is to begin after this entry.
        """
        return token.reply(name, attr, next_id)

else:
    from puffs.refuse._inodes import ReaddirToken, readdir_reply


def token_of(listing: Listing, known: Known) -> ReaddirToken:
    """What a handler is given to fill `listing` by."""
    token = PlainToken(listing, known)
    return token if _compiled is None else _compiled.ReaddirToken(listing, token)
