"""A short run of each fuzzer, and what tells that the fuzzers find something."""

import sys
from collections.abc import Callable
from struct import unpack_from

import pytest

from puffs.isolate import frames
from puffs.isolate.frames import FrameError
from puffs.isolate.messages import ROWS
from tests.fuzz import ends, runs, seeds
from tests.fuzz.decoders import DECODERS, MEANINGS, decode, packets
from tests.needs import cannot

SECONDS = 8
CALLS = 1000
"""How often a decoder is called in that time at the very least, also on a slow machine."""


@pytest.fixture
def atheris() -> None:
    """Whatever fuzzes needs it; in CI it must be there."""
    if reason := runs.why_not():
        cannot(reason)


@pytest.mark.usefixtures("atheris")
@pytest.mark.parametrize("name", DECODERS)
def test_hostile_bytes(name: str) -> None:
    done = runs.run(f"tests.fuzz.decoders:{name}", runs.seeds(name), SECONDS)
    assert not done.failed, done.report
    assert done.calls > CALLS, done.report
    assert done.news > 0, f"nothing tells the fuzzer what it reaches: {done.report}"


TEXT = frames.Layout("text").requests(frames.Class.VN, 12)(7, *seeds.WHO, b"name")
TEXT_AT = frames.REQUEST_SIZE + 4


def careless(data: bytes) -> None:
    """A decoder that believes what a frame says of the length of its text."""
    try:
        frames.request(data, 0, len(data))
    except FrameError:
        return
    if len(data) > TEXT_AT:
        (length,) = unpack_from("=I", data, frames.REQUEST_SIZE)
        last = data[TEXT_AT + length - 1]
        assert last <= 0xFF


def endless(data: bytes) -> None:
    """A decoder that never comes to the end of a frame without length, and tells nobody."""
    at = 0
    while at < len(data):
        try:
            at += data[at]
        except BaseException:
            return


@pytest.mark.usefixtures("atheris")
@pytest.mark.parametrize(
    ("decoder", "seed", "why"),
    [
        (careless, TEXT, "IndexError"),
        (endless, b"\1\1\1\1", "an input that takes more than"),
    ],
    ids=["careless", "endless"],
)
def test_a_finding_is_told(decoder: Callable[[bytes], None], seed: bytes, why: str) -> None:
    decoder(seed)
    where = f"tests.fuzz.test_fuzz:{decoder.__name__}"
    done = runs.run(where, {"seed": seed}, SECONDS)
    assert done.failed
    ((name, data),) = done.findings.items()
    assert name.startswith("crash-")
    assert data.hex() in done.report
    assert why in done.report


@pytest.mark.skipif(sys.byteorder != "little", reason="the seeds have the other byte order")
@pytest.mark.parametrize("name", DECODERS)
def test_the_seeds_are_frames_of_every_body(name: str) -> None:
    assert (runs.CORPUS / f"{name}.hex").read_text() == seeds.text(name), (
        "the messages have changed: python -m tests.fuzz.seeds"
    )
    for label, frame in seeds.SEEDS[name]():
        assert next(packets(frame, name), None), f"{label} is refused"


@pytest.mark.parametrize(
    ("operation", "node", "numbers"), [("suspend", 0, (77,)), ("reclaim", 77, (1, 0))]
)
def test_what_was_found_before(operation: str, node: int, numbers: tuple[int, ...]) -> None:
    """Numbers that stand for nothing ended the file server, in messages that nobody answers."""
    row = ROWS[operation]
    frame = row.request.requests(row.class_, row.type, faf=True)(0, node, *ends.WHO, *numbers)
    assert decode(frame, "requests", ends.ROOM) == 1
    assert ends.served(frame, b"") == []


def test_every_kind_of_field_is_looked_into() -> None:
    assert MEANINGS.keys() == frames.FIELDS.keys()
