"""The message queues of a mount: who waits, who is told what, who has a room, and the end."""

import threading
from collections.abc import Callable
from errno import EINTR, ENXIO, ETIMEDOUT
from typing import Any

import pytest

from puffs.isolate.frames import FrameError
from puffs.kernel.queues import FAF_ID, Message, Place, Queues
from tests.kernel.little import fails
from tests.kernel.queued import (
    SECONDS,
    SIZE,
    Told,
    answered,
    message,
    outcome,
    seen,
    sent,
    told,
    unpackable,
)

# ------------------------------------------------------------------------------------------ sending


@pytest.mark.statement("Q1")
def test_ids_are_counted_from_1_and_fire_and_forget_has_none() -> None:
    queues = Queues()
    sent(queues, "a")
    sent(queues, "b", faf=True)
    sent(queues, "c")
    assert FAF_ID == 0
    assert seen(queues) == ["a 1 -1", "b 0 -1", "c 2 -1"]
    sent(other := Queues(), "d")
    assert seen(other) == ["d 1 -1"], "each mount counts for itself"


@pytest.mark.statement("Q3")
def test_what_nobody_waits_for_is_sent_whatever_becomes_of_who_sends() -> None:
    queues = Queues()
    (asked,) = sent(queues, "read")
    sent(queues, "inactive", faf=True)
    queues.interrupt(asked)
    assert seen(queues) == ["inactive 0 -1"]


@pytest.mark.statement("Q5")
def test_a_dead_file_server_is_sent_nothing() -> None:
    queues = Queues(rooms=1)
    queues.userdead()
    for bulk in (False, True):
        with fails(ENXIO):
            queues.send(message(bulk=bulk))
    assert not queues.readable
    assert not queues.waiters
    with fails(ENXIO):
        queues.fetch(SIZE)


@pytest.mark.statement("Q6")
def test_the_file_server_sees_the_order_of_sending() -> None:
    queues = Queues(rooms=9)
    names = [f"{number}" for number in range(9)]
    for number, name in enumerate(names):
        sent(queues, name, faf=number % 3 == 1, bulk=number % 3 == 2)
    assert [frame.split()[0] for frame in seen(queues)] == names


def test_what_cannot_be_packed_is_not_sent_and_takes_nothing_with_it() -> None:
    queues = Queues(rooms=1)
    for bulk in (False, True):
        with pytest.raises(FrameError):
            queues.send(unpackable(bulk=bulk))
    assert not queues.waiters
    sent(queues, "a", bulk=True)
    assert seen(queues) == ["a 1 0"]


# ---------------------------------------------------------------------------------- fire and forget


@pytest.mark.statement("Q8", "2.2")
def test_fire_and_forget_is_not_waited_for_and_freed_when_it_is_fetched() -> None:
    queues = Queues()
    (one,) = sent(queues, "a", faf=True)
    assert one.over
    assert (queues.readable, queues.waiters) == (True, 0), "readable for this alone"
    assert seen(queues) == ["a 0 -1"]
    assert (queues.readable, queues.unanswered()) == (False, [])
    assert not queues.interrupt(one)


@pytest.mark.statement("Q8")
def test_fire_and_forget_is_never_dropped_silently_but_by_death() -> None:
    queues = Queues()
    with pytest.raises(FrameError):
        queues.send(unpackable(faf=True))
    assert not queues.readable
    sent(queues, "a", faf=True)
    queues.userdead()
    assert not queues.readable
    queues.send(unpackable(faf=True))  # is not even packed
    assert not queues.readable


class Dropped:
    """Has something sent when it is collected."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues

    def __del__(self) -> None:
        sent(self.queues, "dropped", faf=True)


@pytest.mark.statement("Q8")
def test_what_is_collected_within_the_queues_may_be_told() -> None:
    queues = Queues(rooms=1)

    def pack(id_: int, room: int) -> bytes:
        Dropped(queues)
        return f"own {id_} {room}".encode()

    queues.send(Message("own", pack))
    (holder,) = sent(queues, "holder", bulk=True)
    queues.send(parked := Message("own", pack, bulk=True))
    assert seen(queues) == ["dropped 0 -1", "own 1 -1", "holder 2 0"]
    answered(queues, holder)
    queues.free(holder)
    assert parked.place is Place.TOUSER
    assert seen(queues) == ["dropped 0 -1", "own 3 0"]


# ------------------------------------------------------------------------------------- interrupting


@pytest.mark.statement("Q7")
def test_interrupted_before_it_was_fetched_it_never_was() -> None:
    queues = Queues()
    a, b, c = sent(queues, "a", "b", "c")
    assert not queues.interrupt(b), "the file server has nothing to be told"
    assert outcome(b) == EINTR
    assert queues.waiters == 2
    assert seen(queues) == ["a 1 -1", "c 3 -1"]
    assert not queues.interrupt(b)
    assert outcome(a) is outcome(c) is ...


@pytest.mark.statement("Q7")
def test_interrupted_after_that_its_late_answer_is_taken_and_thrown_away() -> None:
    queues = Queues()
    (one,) = sent(queues, "a")
    queues.fetch(SIZE)
    assert queues.interrupt(one)
    assert outcome(one) == EINTR
    assert not queues.waiters
    assert not queues.unanswered()
    assert not queues.interrupt(one), "once is enough"
    assert not answered(queues, one, "late")
    assert outcome(one) == EINTR
    assert not queues.waiters
    with pytest.raises(LookupError):
        queues.answer(one.id)


@pytest.mark.statement("Q7")
def test_a_waiter_may_go_for_other_reasons() -> None:
    queues = Queues()
    (one,) = sent(queues, "a")
    assert not queues.interrupt(one, ETIMEDOUT)
    with fails(ETIMEDOUT):
        one.outcome()


@pytest.mark.statement("Q7")
def test_the_file_server_keeps_the_room_until_it_has_answered() -> None:
    queues = Queues(rooms=1)
    (one,) = sent(queues, "a", bulk=True)
    queues.fetch(SIZE)
    queues.interrupt(one)
    queues.free(one)
    (next_,) = sent(queues, "b", bulk=True)
    assert next_.place is Place.PARKED, "the file server may still write there"
    answered(queues, one)
    assert seen(queues) == ["b 2 0"]


# ---------------------------------------------------------------------------------------- callbacks


@pytest.mark.statement("Q9")
def test_a_callback_is_called_by_whoever_ends_the_message() -> None:
    queues = Queues(rooms=1)
    ways: dict[str, Callable[[Message], object]] = {
        "answer": lambda one: queues.fetch(SIZE) and answered(queues, one, "result"),
        "interrupt": queues.interrupt,
        "late": lambda one: queues.fetch(SIZE) and queues.interrupt(one) and answered(queues, one),
        "death": lambda _: queues.userdead(),
    }
    errors: dict[str, int | None] = {}
    for way, end in ways.items():
        one = message(way)
        calls = told(one)
        queues.send(one)
        assert not calls
        end(one)
        ((result, error),) = calls
        assert result == ("result" if way == "answer" else None)
        errors[way] = error.errno if isinstance(error, OSError) else None
    assert errors == {"answer": None, "interrupt": EINTR, "late": EINTR, "death": ENXIO}


@pytest.mark.statement("Q9")
def test_a_callback_may_use_the_queues_from_any_thread() -> None:
    queues = Queues()
    (one,) = sent(queues, "a")

    def completed(_result: Any, _error: BaseException | None) -> None:
        thread = threading.Thread(target=sent, args=(queues, "next"), daemon=True)
        thread.start()
        thread.join(SECONDS)

    one.completed = completed
    queues.fetch(SIZE)
    answered(queues, one)
    assert seen(queues) == ["next 2 -1"]


@pytest.mark.statement("Q9")
def test_a_callback_that_fails_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    queues = Queues()
    bad, good = message("bad"), message("good")

    def completed(_result: Any, _error: BaseException | None) -> None:
        raise RuntimeError("a mistake")

    bad.completed = completed
    calls = told(good)
    queues.send(bad)
    queues.send(good)
    queues.userdead()
    assert len(calls) == 1
    assert "the result of bad could not be used" in caplog.text


@pytest.mark.parametrize("late", [False, True])
def test_a_message_under_way_gets_its_callback_once(late: bool) -> None:
    queues = Queues()
    calls: Told = []
    (one,) = sent(queues, "a")
    queues.fetch(SIZE)
    steps: list[Callable[[], object]] = [
        lambda: queues.adopt(one, lambda result, error: calls.append((result, error))),
        lambda: answered(queues, one, "result"),
    ]
    for step in reversed(steps) if late else steps:
        step()
    queues.userdead()
    assert calls == [("result", None)]


# ------------------------------------------------------------------------------------- rooms


@pytest.mark.statement("Q18")
def test_who_needs_a_room_is_parked_until_there_is_one() -> None:
    queues = Queues(rooms=2)
    a, b, c, d = sent(queues, "a", "b", "c", "d", bulk=True)
    assert {a.room, b.room} == {0, 1}
    assert c.place is d.place is Place.PARKED
    assert queues.waiters == 4
    sent(queues, "small")
    assert seen(queues) == [f"a 1 {a.room}", f"b 2 {b.room}", "small 3 -1"]
    freed = b.room
    answered(queues, b, "data")
    assert not queues.readable, "the data is still looked at"
    queues.free(b)
    queues.free(b)
    assert seen(queues) == [f"c 4 {freed}"], "one room, in the order of sending"
    assert d.place is Place.PARKED


@pytest.mark.statement("Q18")
def test_a_room_comes_free_in_every_way() -> None:
    queues = Queues(rooms=1)

    def parked_behind(one: Message) -> Message:
        queues.send(one)
        return sent(queues, "next", bulk=True)[0]

    taken_back = message(bulk=True)
    next_ = parked_behind(taken_back)
    queues.interrupt(taken_back)
    assert next_.room == 0

    behind = sent(queues, "behind", bulk=True)[0]
    queues.interrupt(behind)
    assert outcome(behind) == EINTR
    assert queues.waiters == 1

    queues.unfetch(queues.fetch(SIZE))
    last = sent(queues, "last", bulk=True)[0]
    queues.interrupt(next_)
    assert last.room == 0
    assert seen(queues) == ["last 3 0"]


@pytest.mark.statement("Q18")
def test_what_is_parked_and_then_cannot_be_packed_has_failed() -> None:
    queues = Queues(rooms=1)
    (holder,) = sent(queues, "holder", bulk=True)
    queues.send(bad := unpackable(bulk=True))
    calls: Told = []
    queues.adopt(bad, lambda result, error: calls.append((result, error)))
    (good,) = sent(queues, "good", bulk=True)
    queues.interrupt(holder)
    ((_, error),) = calls
    assert isinstance(error, FrameError)
    with pytest.raises(FrameError):
        bad.outcome()
    assert good.room == 0
    assert queues.waiters == 1


# ------------------------------------------------------------------------------------- the end


@pytest.mark.statement("Q16")
def test_death_fails_everything_that_is_anywhere() -> None:
    queues = Queues(rooms=1)
    waits, left = sent(queues, "waits", bulk=True) + sent(queues, "left")
    seen(queues, count=2)
    (queued, parked) = sent(queues, "queued") + sent(queues, "parked", bulk=True)
    sent(queues, "faf", faf=True)
    queues.interrupt(left)
    before = message()
    queues.send(before)
    queues.interrupt(before)
    queues.userdead()
    assert [outcome(one) for one in (waits, queued, parked)] == [ENXIO] * 3
    assert [outcome(one) for one in (left, before)] == [EINTR] * 2
    assert not queues.waiters
    assert not queues.readable
    assert not queues.unanswered()
    queues.userdead()


@pytest.mark.statement("Q16")
@pytest.mark.parametrize("interrupted", [False, True])
def test_an_answer_that_meets_death_changes_nothing(interrupted: bool) -> None:
    queues = Queues(rooms=1)
    (one,) = sent(queues, "a", bulk=True)
    queues.fetch(SIZE)
    if interrupted:
        queues.interrupt(one)
    in_hand = queues.answer(one.id)
    queues.userdead()
    assert one.over
    assert not queues.complete(in_hand, "result")
    assert outcome(one) == (EINTR if interrupted else ENXIO)
    assert not queues.waiters


def test_sleepers_look_again_when_something_is_over_or_they_are_woken() -> None:
    queues = Queues()
    (one,) = sent(queues, "a")
    queues.fetch(SIZE)
    looked = threading.Semaphore(0)
    ready = False

    def until() -> bool:
        looked.release()
        return ready and one.over

    thread = threading.Thread(target=queues.sleep, args=(until, SECONDS), daemon=True)
    thread.start()
    assert looked.acquire(timeout=SECONDS)
    answered(queues, one)
    assert looked.acquire(timeout=SECONDS)
    ready = True
    queues.wake()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert not queues.sleep(lambda: False, 0)
