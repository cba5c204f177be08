"""Messages to test the message queues with, and how to look at what becomes of them."""

from typing import Any

from puffs.isolate.frames import FrameError
from puffs.kernel.queues import Message, Queues

SIZE = 1000
SECONDS = 10.0


def message(name: str = "a", **kinds: bool) -> Message:
    """Its frame tells its name, its id and its room."""
    return Message(name, lambda id_, room: f"{name} {id_} {room}".encode(), **kinds)


def unpackable(**kinds: bool) -> Message:
    def pack(_id: int, _room: int) -> bytes:
        raise FrameError("too long")

    return Message("bad", pack, **kinds)


def sent(queues: Queues, *names: str, **kinds: bool) -> list[Message]:
    made = [message(name, **kinds) for name in names]
    for one in made:
        queues.send(one)
    return made


def seen(queues: Queues, size: int = SIZE, count: int = 0) -> list[str]:
    """The frames that are fetched."""
    return [one.frame.decode() for one in queues.fetch(size, count)]


def answered(queues: Queues, one: Message, result: object = None) -> bool:
    return queues.complete(queues.answer(one.id), result)


def outcome(one: Message) -> object:
    """What it has been given, or the errno that it has failed with; "..." when it is not over."""
    if not one.over:
        return ...
    return one.error.errno if isinstance(one.error, OSError) else one.outcome()


Told = list[tuple[Any, BaseException | None]]


def told(one: Message) -> Told:
    """What `completed` will have been called with."""
    calls: Told = []
    one.completed = lambda result, error: calls.append((result, error))
    return calls
