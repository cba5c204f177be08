"""What the statements say of messages as bytes: lengths, and what an answer may touch."""

from struct import pack, pack_into

import pytest

from puffs.isolate import frames
from puffs.isolate.frames import (
    FAF,
    FRAME_MAX,
    LISTING_MAX,
    NO_ROOM,
    NOBODY,
    REPLY_SIZE,
    RESPONSE,
    Class,
    FrameError,
    Layout,
)
from puffs.kernel.queues import Message, Queues

LISTING = Layout("listing")


@pytest.mark.statement("Q2", "2.3")
def test_each_frame_is_as_long_as_it_says_and_no_longer() -> None:
    short = Layout().requests(Class.VN, 1)(1, 7, *NOBODY, NO_ROOM, None)
    long = Layout("bytes").replies(Class.VN, 1)(1, 0, None, b"x" * 3000)
    datagram = short + long + short
    found = [datagram[at:end] for at, end in frames.split(datagram, len(datagram))]
    assert found == [short, long, short], "an answer may be longer than what it answers"


@pytest.mark.statement("Q2")
@pytest.mark.parametrize("length", [0, REPLY_SIZE - 1, REPLY_SIZE + 1, FRAME_MAX, 2**32 - 1])
def test_a_length_that_is_not_there_is_an_error(length: int) -> None:
    whole = bytearray(Layout().replies(Class.VN, 1)(1, 0, None))
    pack_into("=I", whole, 0, length)
    with pytest.raises(FrameError):
        list(frames.split(whole, len(whole)))


@pytest.mark.statement("Q2")
def test_no_datagram_is_longer_than_the_longest() -> None:
    with pytest.raises(FrameError):
        list(frames.split(b"", FRAME_MAX + 1))


@pytest.mark.statement("Q15", "2.3", "2.3a")
def test_an_answer_reaches_the_result_of_a_message_and_nothing_else() -> None:
    queues = Queues(rooms=1)
    asked = Message("read", lambda id_, room: f"{id_} {room}".encode(), bulk=True)
    queues.send(asked)
    queues.fetch(FRAME_MAX)
    before = {**vars(asked)}
    datagram = Layout("unsigned").replies(Class.FLUSH, 0xFFFF)(asked.id, -(2**63), None, 2**64 - 1)
    _, _, id_, rv, _ = frames.reply(datagram, 0, len(datagram))
    assert (id_, rv) == (asked.id, -(2**63)), "whether there is such an errno: 2.7"
    queues.complete(queues.answer(id_), datagram[REPLY_SIZE:])
    after = {**vars(asked)}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"place", "result"}


@pytest.mark.statement("Q15")
@pytest.mark.parametrize(
    ("version", "class_"),
    [
        (frames.VERSION, Class.VN),
        (frames.VERSION, Class.VN | FAF),
        (frames.VERSION, Class.VN | RESPONSE | FAF),
        (frames.VERSION, Class.VN | RESPONSE | 0x80),
        (frames.VERSION + 1, Class.VN | RESPONSE),
    ],
)
def test_what_is_no_answer_answers_nothing(version: int, class_: int) -> None:
    datagram = pack("=IBBHQq", REPLY_SIZE, version, class_, 1, 1, 0)
    with pytest.raises(FrameError):
        frames.reply(datagram, 0, len(datagram))


@pytest.mark.statement("Q19")
def test_a_listing_is_a_view_of_what_came() -> None:
    room = memoryview(bytearray(LISTING_MAX))
    datagram = memoryview(LISTING.replies(Class.VN, 1)(1, 0, room, (9, b"x" * LISTING_MAX)))
    ((more, data),) = LISTING.unpack(datagram, REPLY_SIZE, len(datagram), room)
    assert (more, len(data)) == (9, LISTING_MAX)
    assert data.obj is room.obj


@pytest.mark.statement("Q19")
@pytest.mark.parametrize("there", [0, 10, LISTING_MAX + 1])
@pytest.mark.parametrize("said", [11, LISTING_MAX + 1, 2**32 - 1])
def test_a_listing_longer_than_what_came_or_than_allowed_is_an_error(there: int, said: int) -> None:
    body = memoryview(pack("=QI", 0, said) + b"x" * there)
    with pytest.raises(FrameError):
        LISTING.unpack(body, 0, len(body))
