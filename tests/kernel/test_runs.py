"""Runs of bytes with gaps between: against a plain dictionary from offset to byte."""

from hypothesis import given
from hypothesis import strategies as st

from puffs.kernel.runs import Runs

OFFSETS = st.integers(0, 60)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, st.binary(min_size=1, max_size=25)),
        st.tuples(st.just("cut"), OFFSETS, OFFSETS),
    ),
    max_size=25,
)


def spans(offsets: set[int]) -> list[tuple[int, int]]:
    """The ranges without a gap that these offsets make up."""
    found: list[tuple[int, int]] = []
    for offset in sorted(offsets):
        if found and found[-1][1] == offset:
            found[-1] = found[-1][0], offset + 1
        else:
            found.append((offset, offset + 1))
    return found


@given(steps=STEPS, start=OFFSETS, length=st.integers(1, 40))
def test_as_a_dictionary(
    steps: list[tuple[str, int, bytes | int]], start: int, length: int
) -> None:
    runs, model = Runs(), dict[int, int]()
    for _, offset, what in steps:
        if isinstance(what, bytes):
            runs.write(offset, memoryview(what))
            model.update(zip(range(offset, offset + len(what)), what, strict=True))
        elif what > offset:
            runs.cut(offset, what)
            for cut in range(offset, what):
                model.pop(cut, None)
    assert bool(runs) == bool(model)
    assert runs.end == max(model, default=-1) + 1
    every = spans(set(model))
    assert [(at, at + len(data)) for at, data in runs.between(0, 1 << 60)] == every
    end = start + length
    wanted = range(start, end)
    assert runs.covers(start, end) == all(offset in model for offset in wanted)
    found = runs.between(start, end)
    assert [(at, at + len(data)) for at, data in found] == spans(set(model) & set(wanted))
    assert {at + place: byte for at, data in found for place, byte in enumerate(data)} == {
        offset: byte for offset, byte in model.items() if offset in wanted
    }


def test_what_is_given_out_is_a_copy() -> None:
    runs = Runs()
    runs.write(10, b"first")
    ((_, data),) = runs.between(0, 100)
    runs.write(8, b"xxxx")
    assert data == b"first"
    assert runs.between(0, 100) == [(8, b"xxxxrst")]


def test_many_small_ones_count_for_more_than_their_bytes() -> None:
    runs = Runs()
    for offset in range(0, 2000, 2):
        runs.write(offset, b"x")
    assert runs.memory > 1000 * 1000
    for offset in range(1, 2000, 2):
        runs.write(offset, b"y")
    assert runs.memory < 10_000, "now they are one"
    assert runs.between(0, 4) == [(0, b"xyxy")]
