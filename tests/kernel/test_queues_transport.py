"""The message queues of a mount, as those see them who fetch messages and bring answers."""

from collections.abc import Callable
from errno import E2BIG, EINVAL, ENXIO, EWOULDBLOCK
from typing import Any

import pytest

from puffs.isolate import frames
from puffs.isolate.frames import Class, FrameError
from puffs.kernel.queues import FAF_ID, Message, Place, Queues
from tests.kernel.little import fails
from tests.kernel.queued import SIZE, answered, outcome, seen, sent


@pytest.mark.statement("Q10")
def test_a_fetch_takes_what_is_there_up_to_a_count_and_a_size() -> None:
    queues = Queues()
    with fails(EWOULDBLOCK):
        queues.fetch(SIZE)
    sent(queues, "a", "b", "c", "d")
    assert seen(queues, count=1) == ["a 1 -1"]
    assert seen(queues, size=len("b 2 -1c 3 -1")) == ["b 2 -1", "c 3 -1"]
    assert seen(queues) == ["d 4 -1"]
    with fails(EWOULDBLOCK):
        queues.fetch(SIZE)


@pytest.mark.statement("Q10")
def test_a_count_is_of_messages_that_are_to_be_answered() -> None:
    queues = Queues()
    for number in range(6):
        sent(queues, f"{number}", faf=number % 2 == 0)
    assert seen(queues, count=2) == ["0 0 -1", "1 1 -1", "2 0 -1", "3 2 -1"]
    assert seen(queues, count=2) == ["4 0 -1", "5 3 -1"]


@pytest.mark.statement("Q11")
def test_what_could_not_be_sent_is_fetched_again_in_its_order() -> None:
    queues = Queues()
    sent(queues, "a", "b")
    sent(queues, "c", faf=True)
    first = queues.fetch(SIZE)
    sent(queues, "d")
    queues.unfetch(first[1:])
    assert [(one.operation, one.place) for one in queues.unanswered()] == [
        ("a", Place.REPLYWAIT),
        ("b", Place.TOUSER),
        ("d", Place.TOUSER),
    ]
    assert seen(queues) == ["b 2 -1", "c 0 -1", "d 3 -1"]
    assert queues.waiters == 3


@pytest.mark.statement("Q11")
def test_what_is_over_by_then_is_not_sent_at_all() -> None:
    queues = Queues(rooms=2)
    gone, guessed, rest = sent(queues, "gone", "guessed", bulk=True) + sent(queues, "rest")
    fetched = queues.fetch(SIZE)
    (parked,) = sent(queues, "parked", bulk=True)
    queues.interrupt(gone)
    answered(queues, guessed, "of a file server that guesses")
    queues.unfetch(fetched)
    assert rest.place is Place.TOUSER
    assert seen(queues) == ["rest 3 -1", f"parked 4 {parked.room}"]
    assert guessed.outcome() == "of a file server that guesses"
    with pytest.raises(LookupError):
        queues.answer(gone.id)


@pytest.mark.statement("Q11")
def test_nothing_goes_back_to_a_dead_file_server() -> None:
    queues = Queues()
    sent(queues, "a")
    sent(queues, "b", faf=True)
    fetched = queues.fetch(SIZE)
    queues.userdead()
    queues.unfetch(fetched)
    assert not queues.readable
    assert outcome(fetched[0]) == ENXIO


@pytest.mark.statement("Q12")
def test_a_message_that_does_not_fit_stays_where_it_is() -> None:
    queues = Queues()
    sent(queues, "long" * 20, "b")
    for _ in range(2):
        with fails(E2BIG):
            queues.fetch(20)
    assert queues.waiters == 2
    assert [frame[-6:] for frame in seen(queues)] == ["g 1 -1", "b 2 -1"]


@pytest.mark.statement("Q13")
def test_what_is_fetched_waits_for_its_answer() -> None:
    queues = Queues()
    a, b = sent(queues, "a", "b")
    sent(queues, "c", faf=True)
    assert (a.place, b.place) == (Place.TOUSER, Place.TOUSER)
    queues.fetch(SIZE)
    assert queues.unanswered() == [a, b]
    assert (a.place, b.place) == (Place.REPLYWAIT, Place.REPLYWAIT)
    assert queues.waiters == 2
    answered(queues, b, "result")
    assert queues.unanswered() == [a]
    assert (a.over, b.over) == (False, True)
    assert b.outcome() == "result"
    assert queues.waiters == 1


@pytest.mark.statement("Q14")
def test_an_answer_must_be_to_something_that_was_asked() -> None:
    queues = Queues()
    sent(queues, "faf", faf=True)
    one, two = sent(queues, "one", "two")
    seen(queues, count=1)
    for id_ in (FAF_ID, two.id, 77, -1, 1 << 64):
        with pytest.raises(LookupError, match=f"message {id_}, which was not sent"):
            queues.answer(id_)
    assert queues.answer(one.id) is one
    queues.complete(one, "first")
    with pytest.raises(LookupError, match="has been answered"):
        queues.answer(one.id)
    assert not queues.complete(one, "second")
    assert one.outcome() == "first"


@pytest.mark.statement("Q14")
def test_answers_come_in_batches_and_what_is_well_before_an_error_counts() -> None:
    queues = Queues()
    asked = sent(queues, "a", "b", "c", "d")
    queues.fetch(SIZE)
    pack = frames.Layout("unsigned").replies(Class.VN, 1)
    batch = b"".join(pack(one.id, 0, None, one.id * 10) for one in asked)

    def answers() -> None:
        for at, end in frames.split(batch, len(batch) - 1):
            _, _, id_, *_ = frames.reply(batch, at, end)
            queues.complete(queues.answer(id_), end - at)

    with pytest.raises(FrameError):
        answers()
    assert [one.over for one in asked] == [True, True, True, False]
    assert {one.result for one in asked[:3]} == {len(batch) // 4}


def test_an_answer_that_is_an_error() -> None:
    queues = Queues()
    (one,) = sent(queues, "a")
    queues.fetch(SIZE)
    assert queues.complete(queues.answer(one.id), None, OSError(EINVAL, "no"))
    with fails(EINVAL):
        one.outcome()


class Watched(Message):
    """Notes its outcome at the moment at which it is over."""

    at_the_end: tuple[Any, BaseException | None]

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "place" and self.over and not hasattr(self, "at_the_end"):
            self.at_the_end = (self.result, self.error)


def test_who_sees_that_it_is_over_sees_the_outcome() -> None:
    queues = Queues()
    ends: list[Callable[[Message], object]] = [
        lambda one: answered(queues, one, "result"),
        queues.interrupt,
        lambda _: queues.userdead(),
    ]
    for end in ends:
        one = Watched("a", lambda _id, _room: b"a")
        queues.send(one)
        queues.fetch(SIZE)
        end(one)
        assert any(one.at_the_end)
        assert one.at_the_end == (one.result, one.error)
