"""The message queues of a mount under random operations: against a model, and from many threads."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import E2BIG, EINTR, ENXIO, EWOULDBLOCK
from queue import SimpleQueue
from random import Random
from typing import Any

import pytest

from puffs.isolate.frames import FrameError
from puffs.kernel.queues import Message, Place, Queues
from tests.kernel.queued import SECONDS

ROOMS = 2
SIZE = 100

# ---------------------------------------------------------------------------------- against a model


class Noted(Message):
    """Notes how it ends. `bad`: cannot be packed. Of whatever the model thinks: see `Model`."""

    def __init__(self, random: Random) -> None:
        kinds = {"faf": random.random() < 0.2, "bulk": random.random() < 0.5}
        super().__init__("noted", self.make, faf=kinds["faf"], bulk=kinds["bulk"])
        self.bad = random.random() < 0.1
        self.length = random.randrange(1, 60)
        self.ends: list[object] = []
        self.given_id = self.given_room = -1
        self.at = Place.NOWHERE
        self.has_room = False
        self.end: object = None

    def make(self, id_: int, room: int) -> bytes:
        if self.bad:
            raise FrameError("bad")
        self.given_id, self.given_room = id_, room
        return b"x" * self.length

    def ended(self, result: Any, error: BaseException | None) -> None:
        self.ends.append(error.errno if isinstance(error, OSError) else error or result)


class Model:
    """The queues in the plainest way: lists of messages, which know where they are."""

    def __init__(self) -> None:
        self.all: list[Noted] = []
        self.touser: list[Noted] = []
        self.replywait: list[Noted] = []
        self.parked: list[Noted] = []
        self.free = ROOMS
        self.last_id = 0
        self.dead = False

    def send(self, one: Noted) -> type[BaseException] | None:
        """What sending raises."""
        if self.dead and not one.faf:
            return OSError
        needs_room = one.bulk and not one.faf
        if one.bad and not self.dead and not (needs_room and not self.free):
            return FrameError
        self.all.append(one)
        if one.faf:
            one.at = Place.DONE
            self.touser += [] if self.dead else [one]
        elif needs_room and not self.free:
            one.at = Place.PARKED
            self.parked.append(one)
        else:
            self.queue(one)
        return None

    def queue(self, one: Noted) -> None:
        if one.bulk:
            self.free -= 1
            one.has_room = True
        self.last_id += 1
        one.at = Place.TOUSER
        self.touser.append(one)

    def vacate(self, one: Noted) -> None:
        if not one.has_room:
            return
        one.has_room = False
        self.free += 1
        while self.parked and self.free:
            next_ = self.parked.pop(0)
            if next_.bad:
                next_.at, next_.end = Place.DONE, FrameError
            else:
                self.queue(next_)

    def fetch(self, size: int, count: int) -> list[Noted] | int:
        """What is fetched, or the errno."""
        if self.dead:
            return ENXIO
        if not self.touser:
            return EWOULDBLOCK
        fetched: list[Noted] = []
        while self.touser and self.touser[0].length <= size:
            one = self.touser.pop(0)
            size -= one.length
            fetched.append(one)
            if not one.faf:
                one.at = Place.REPLYWAIT
                self.replywait.append(one)
                if sum(not other.faf for other in fetched) == count:
                    break
        return fetched or E2BIG

    def unfetch(self, messages: list[Noted]) -> None:
        if self.dead:
            return
        back = [one for one in messages if one.faf or one.at is Place.REPLYWAIT]
        gone = [one for one in messages if one.at is Place.LEFT]
        self.touser[:0] = back
        for one in messages:
            if one in self.replywait:
                self.replywait.remove(one)
        for one in back:
            one.at = Place.DONE if one.faf else Place.TOUSER
        for one in reversed(gone):
            one.at = Place.DONE
            self.vacate(one)

    def interrupt(self, one: Noted) -> bool:
        was = one.at
        if was in (Place.NOWHERE, Place.LEFT, Place.DONE):
            return False
        one.end = EINTR
        if was is Place.REPLYWAIT:
            one.at = Place.LEFT
            return True
        (self.parked if was is Place.PARKED else self.touser).remove(one)
        one.at = Place.DONE
        self.vacate(one)
        return False

    def complete(self, one: Noted, result: object) -> bool:
        if one not in self.replywait:
            return False
        self.replywait.remove(one)
        waited = one.at is Place.REPLYWAIT
        one.at = Place.DONE
        if waited:
            one.end = result
        else:
            self.vacate(one)
        return waited

    def die(self) -> None:
        self.dead = True
        self.touser, self.replywait, self.parked = [], [], []
        for one in self.all:
            if one.at in (Place.PARKED, Place.TOUSER, Place.REPLYWAIT):
                one.end = ENXIO
            if one.at is Place.LEFT:
                self.vacate(one)
            one.at = Place.DONE


class Both:
    """The queues and the model: every operation on both."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.queues, self.model = Queues(ROOMS), Model()
        self.in_hand: list[Noted] = []
        """What was fetched last, and may have to be given back."""

    def any_one(self) -> Noted | None:
        return self.random.choice(self.model.all) if self.model.all else None

    def send(self) -> None:
        one = Noted(self.random)
        early = self.random.random() < 0.5
        if early:
            one.completed = one.ended
        raises = self.model.send(one)
        if raises is None:
            self.queues.send(one)
        else:
            with pytest.raises(raises):
                self.queues.send(one)
        if not early and not one.faf and raises is None:
            self.queues.adopt(one, one.ended)

    def fetch(self) -> None:
        size, count = self.random.randrange(SIZE), self.random.randrange(4)
        expected = self.model.fetch(size, count)
        try:
            fetched: Any = self.queues.fetch(size, count)
        except OSError as exc:
            fetched = exc.errno
        assert fetched == expected
        self.in_hand = fetched if isinstance(fetched, list) else []

    def unfetch(self) -> None:
        back = self.in_hand[self.random.randrange(len(self.in_hand) + 1) :]
        self.in_hand = []
        self.model.unfetch(back)
        self.queues.unfetch(back)

    def answer(self) -> None:
        one = self.any_one()
        if one is None:
            return
        if one in self.model.replywait:
            assert self.queues.answer(one.id) is one
        else:
            with pytest.raises(LookupError):
                self.queues.answer(one.id)
        result = self.random.random()
        assert self.queues.complete(one, result) == self.model.complete(one, result)

    def interrupt(self) -> None:
        one = self.any_one()
        if one is not None:
            assert self.queues.interrupt(one) == self.model.interrupt(one)

    def free(self) -> None:
        one = self.any_one()
        if one is not None:
            if one.at is Place.DONE:
                self.model.vacate(one)
            self.queues.free(one)

    def die(self) -> None:
        self.model.die()
        self.queues.userdead()

    def agree(self) -> None:
        """Whether all is as it should be; what is over and has no room is looked at no more."""
        model, queues = self.model, self.queues
        waiting = [one for one in model.all if one.at not in (Place.LEFT, Place.DONE)]
        assert [one.place for one in model.all] == [one.at for one in model.all]
        assert queues.waiters == len(waiting)
        assert queues.readable == bool(model.touser)
        queued = [*model.replywait, *model.touser, *model.parked]
        assert queues.unanswered() == [one for one in queued if one in waiting]
        rooms = [one.room for one in model.all if one.room >= 0]
        assert [one for one in model.all if one.room >= 0] == [
            one for one in model.all if one.has_room
        ]
        assert len({*rooms}) == len(rooms) == ROOMS - model.free
        assert {*rooms} <= {*range(ROOMS)}
        assert not (model.free and model.parked)
        for one in model.all:
            ended = [type(end) if isinstance(end, Exception) else end for end in one.ends]
            assert ended == ([one.end] if one.end is not None else [])
            if one.at in (Place.TOUSER, Place.REPLYWAIT):
                assert (one.id, one.room) == (one.given_id, one.given_room)
        model.all = [
            *(one for one in model.all if one.at is not Place.DONE or one.has_room),
            *(one for one in self.in_hand if one.at is Place.DONE and not one.has_room),
        ]


OPERATIONS: dict[Callable[[Both], None], int] = {
    Both.send: 50,
    Both.fetch: 30,
    Both.unfetch: 8,
    Both.answer: 50,
    Both.interrupt: 12,
    Both.free: 30,
    Both.die: 1,
}
"""How often each is tried."""


@pytest.mark.parametrize("seed", range(20))
def test_like_the_model(seed: int) -> None:
    random = Random(seed)
    both = Both(random)
    operations = random.choices([*OPERATIONS], [*OPERATIONS.values()], k=300)
    for operation in operations:
        operation(both)
        both.agree()
        if both.model.dead and random.random() < 0.05:
            both = Both(random)
    both.die()
    both.agree()


# -------------------------------------------------------------------------------- from many threads


def give_way() -> None:
    """Let another thread go on, if one can."""
    time.sleep(0)


class Mount:
    """Callers, a line to a file server that is two threads, and memory that both sides see.

    `lives` is how many messages the file server answers before it dies, None: all.
    """

    CALLERS = 5
    MESSAGES = 200
    """Of each caller."""

    def __init__(self, seed: int, lives: int | None) -> None:
        self.seed = seed
        self.lives = lives
        self.queues = Queues(ROOMS)
        self.memory: dict[int, object] = {}
        self.line: SimpleQueue[bytes | None] = SimpleQueue()
        self.order: list[bytes] = []
        """All frames in the order in which they were sent."""
        self.calls: list[tuple[Message, list[object]]] = []
        """All that was sent, and what its callback was given."""
        self._sending = threading.Lock()

    def flush(self, random: Random) -> None:
        """Send what is there; now and then a part of it fails at first."""
        with self._sending:
            while self.queues.readable:
                try:
                    batch = self.queues.fetch(SIZE, random.randrange(4))
                except OSError as exc:
                    if exc.errno not in (ENXIO, EWOULDBLOCK):  # the last one was taken back
                        raise
                    return
                well = random.randrange(1, len(batch) + 1) if random.random() < 0.2 else len(batch)
                for one in batch[:well]:
                    self.order.append(one.frame)
                    self.line.put(one.frame)
                self.queues.unfetch(batch[well:])

    def call(self, random: Random, number: int) -> None:
        """One message, as a caller has it sent, and what it gives him."""
        faf = random.random() < 0.2

        def pack(id_: int, room: int) -> bytes:
            if room >= 0:
                self.memory[room] = ("asked", id_)
            give_way()
            return f"{threading.get_ident()} {number} {id_} {room}".encode()

        one = Message("call", pack, faf=faf, bulk=not faf and random.random() < 0.5)
        ends: list[object] = []

        def ended(result: object, error: BaseException | None) -> None:
            ends.append(error or result)

        early = random.random() < 0.5
        if early and not faf:
            one.completed = ended
        try:
            self.queues.send(one)
        except OSError as exc:
            if exc.errno != ENXIO or not self.queues.dead:
                raise
            return
        finally:
            self.flush(random)
        if faf:
            return
        if not early:
            self.queues.adopt(one, ended)
        self.calls.append((one, ends))
        if random.random() < 0.2:
            give_way()
            self.queues.interrupt(one)
        assert self.queues.sleep(lambda: one.over, SECONDS), f"{one.place} is for ever"
        if one.error is None:
            assert one.outcome() == ("answer", one.id)
            if one.bulk:
                assert self.memory[one.room] == ("answered", one.id)
        self.queues.free(one)
        self.flush(random)

    def serve(self, random: Random) -> None:
        """A thread of the file server: answers what comes down the line, once at least."""
        while (frame := self.line.get()) is not None:
            id_, room = map(int, frame.split()[2:])
            if not id_:
                continue
            try:
                one = self.queues.answer(id_)
            except LookupError:
                assert self.queues.dead
                continue
            assert one.id == id_
            if room >= 0 and not self.queues.dead:
                assert self.memory[room] == ("asked", id_), "somebody else has been given the room"
                self.memory[room] = ("answered", id_)
            give_way()
            for _ in range(random.randrange(1, 3)):
                self.queues.complete(one, ("answer", id_))
            if self.lives is not None:
                self.lives -= 1
                if self.lives <= 0:
                    self.queues.userdead()
            self.flush(random)

    def caller(self, random: Random) -> None:
        for number in range(self.MESSAGES):
            self.call(random, number)

    def run(self) -> list[BaseException]:
        """All of it; what went wrong on any thread."""
        wrong: list[BaseException] = []

        def started(work: Callable[[Random], None], number: int) -> threading.Thread:
            def run() -> None:
                try:
                    work(Random(f"{self.seed} {number}"))
                except BaseException as exc:
                    wrong.append(exc)
                    self.queues.userdead()

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            return thread

        servers = [started(self.serve, -number) for number in (1, 2)]
        callers = [started(self.caller, number) for number in range(self.CALLERS)]
        for caller in callers:
            caller.join()
        for _ in servers:
            self.line.put(None)
        for server in servers:
            server.join()
        return wrong


@contextmanager
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("lives", [None, 300])
def test_from_many_threads(seed: int, lives: int | None) -> None:
    mount = Mount(seed, lives)
    with restless():
        assert mount.run() == []
    queues = mount.queues
    assert queues.dead == (lives is not None)
    assert queues.waiters == 0
    assert not queues.unanswered()
    assert not queues.readable

    asked = [tuple(map(int, frame.split())) for frame in mount.order]
    ids = [id_ for _, _, id_, _ in asked if id_]
    assert ids == sorted({*ids}), "in the order of sending, and each once"
    for caller in {caller for caller, *_ in asked}:
        fafs = [number for who, number, id_, _ in asked if who == caller and not id_]
        assert fafs == sorted({*fafs})

    for one, ends in mount.calls:
        assert ends == [one.error or one.result], "completed once, and nothing came after that"
    failed = {getattr(one.error, "errno", None) for one, _ in mount.calls}
    assert {None, EINTR} <= failed <= {None, EINTR} | ({ENXIO} if lives else set())
    if lives is None:
        holders = [Message("bulk", lambda _id, _room: b"", bulk=True) for _ in range(ROOMS + 1)]
        for holder in holders:
            queues.send(holder)
        assert {one.room for one in holders[:ROOMS]} == {*range(ROOMS)}, "no room was lost"
        assert holders[ROOMS].place is Place.PARKED
