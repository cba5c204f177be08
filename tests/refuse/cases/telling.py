"""What callers see of what the kernel is told unasked."""

import os
import threading
from collections.abc import Callable
from typing import Any

from tests.refuse.cases.devices import SECONDS, Notes
from tests.refuse.saying import Place, Say, case, opened, read, size_of


class Orders:
    """Gives the server orders, and says what the kernel then asks for."""

    def __init__(self, at: Place, say: Say) -> None:
        self._at = at
        self._say = say
        self._notes = Notes(at)

    def _settle(self) -> None:
        """Until what was ordered has reached the kernel, which llfuse tells by a thread."""
        os.path.exists(self._at("marker"))
        os.setxattr(self._at("control"), "user.do", b"invalidate_entry marker")
        pause = threading.Event()  # that is never set
        self._notes.since()
        for _ in range(int(SECONDS / 0.01)):
            os.path.exists(self._at("marker"))
            if "lookup marker" in self._notes.since():
                return
            pause.wait(0.01)
        raise AssertionError("it never reaches the kernel")

    def __call__(self, order: str, then: Callable[[], Any], label: str = "") -> None:
        """What came of an order, what a call then returns, and what the server is asked for it."""
        label = label or order
        self._notes.since()
        os.setxattr(self._at("control"), "user.do", order.encode())
        self._say(label, self._notes.of, "did")
        self._settle()
        self.asked(label, then)

    def asked(self, label: str, then: Callable[[], Any]) -> None:
        self._notes.since()
        self._say(f"{label}: then", then)
        self._say(f"{label}: asked", lambda: sorted(self._notes.since()))


@case("telling")
def inodes(at: Place, say: Say) -> None:
    orders = Orders(at, say)
    orders.asked("first", lambda: read(at("a")))
    orders.asked("again", lambda: read(at("a")))
    orders("invalidate_inode 10", lambda: read(at("a")))
    orders("invalidate_inode 10 True", lambda: read(at("a")))
    orders("invalidate_inode 10 True", lambda: os.lstat(at("a")).st_size, "for stat")
    orders("invalidate_inode 11", lambda: read(at("b")))
    orders("invalidate_inode 999", lambda: None)
    orders("invalidate_inode 1 True", lambda: os.lstat(at(".")).st_nlink, "the root")


@case("telling")
def entries(at: Place, say: Say) -> None:
    orders = Orders(at, say)
    read(at("a"))
    orders.asked("known", lambda: size_of(at("a")))
    orders("invalidate_entry a", lambda: size_of(at("a")))
    orders.asked("absent", lambda: os.path.exists(at("absent")))
    orders.asked("absent again", lambda: os.path.exists(at("absent")))
    orders("invalidate_entry absent", lambda: os.path.exists(at("absent")))
    orders("invalidate_entry never", lambda: None)
    with opened(at("a"), os.O_RDONLY) as fd:
        orders("invalidate_entry a", lambda: len(os.pread(fd, 10, 0)), "while it is open")


@case("telling deleted")
def deleted(at: Place, say: Say) -> None:
    orders = Orders(at, say)
    size_of(at("a"))
    size_of(at("b"))
    orders("invalidate_entry a 10", lambda: size_of(at("a")))
    orders("invalidate_entry b 10", lambda: size_of(at("b")), "another inode")
    orders("invalidate_entry never 10", lambda: None)
    orders("invalidate_entry a 999", lambda: size_of(at("a")), "an inode that is not known")


@case("telling deleted")
def later(at: Place, say: Say) -> None:
    notes = Notes(at)
    pause = threading.Event()  # that is never set

    def asked_again(name: str) -> bool:
        """Whether the name is looked up anew, in the end."""
        for _ in range(int(SECONDS / 0.01)):
            size_of(at(name))
            if f"lookup {name}" in notes.since():
                return True
            pause.wait(0.01)
        return False

    size_of(at("a"))
    for order in ("invalidate_entry_async a", "invalidate_entry_async a 10"):
        notes.since()
        os.setxattr(at("control"), "user.do", order.encode())
        say(order, notes.of, "did")
        say(f"{order}: then", asked_again, "a")
    os.setxattr(at("control"), "user.do", b"invalidate_entry_async never")
    os.setxattr(at("control"), "user.do", b"invalidate_entry_async a")
    say("after one that fails", asked_again, "a")


@case("telling")
def stores(at: Place, say: Say) -> None:
    orders = Orders(at, say)
    size_of(at("a"))
    orders("invalidate_inode 10", lambda: None)
    orders("notify_store 10 0 stored1234", lambda: read(at("a")))
    orders("notify_store 10 3 XY", lambda: read(at("a")))
    orders("notify_store 10 8 longer", lambda: read(at("a")), "past the end")
    orders("notify_store 10 8 longer", lambda: size_of(at("a")), "past the end: size")
    orders("notify_store 999 0 x", lambda: None)


@case("telling")
def syncing(at: Place, say: Say) -> None:
    orders = Orders(at, say)

    def sync(name: str) -> None:
        with opened(at(name), os.O_RDONLY) as fd:
            os.fsync(fd)
            os.fdatasync(fd)

    orders.asked("directory", lambda: sync("."))
    orders.asked("file", lambda: sync("a"))
    orders("syncfs /nothing/there", lambda: None)
    orders("syncfs /proc", lambda: None)
