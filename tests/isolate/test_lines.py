"""Lines of a process that may write anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puffs.isolate.lines import LINE_BYTES, LINES, Lines, harmless


def test_lines_are_put_together_from_what_comes() -> None:
    lines = Lines()
    assert lines.feed(b"one\ntw", 0.0) == ["one"]
    assert lines.feed(b"", 0.1) == []
    assert lines.feed(b"o\n\nthree", 0.2) == ["two", ""]
    assert lines.rest() == ["three"]
    assert lines.rest() == []


def test_a_long_line_is_cut_and_the_next_one_is_whole() -> None:
    lines = Lines()
    for _ in range(1000):
        assert lines.feed(b"x" * 500, 0.0) == []
    assert lines.feed(b"y\nnext\n", 0.0) == ["x" * LINE_BYTES + "...", "next"]
    assert lines.feed(b"z" * LINE_BYTES + b"\n", 0.0) == ["z" * LINE_BYTES]


def test_too_many_lines_are_counted_and_told_when_the_second_is_over() -> None:
    lines = Lines()
    assert lines.feed(b"a\n" * 60, 5.0) == ["a"] * 60
    assert lines.feed(b"b\n" * 60, 5.9) == ["b"] * (LINES - 60)
    assert lines.feed(b"b\n" * 3, 5.99) == []
    assert lines.feed(b"", 6.0) == ["23 more lines"]
    assert lines.feed(b"c\n" * (LINES + 1), 6.5) == ["c"] * LINES
    assert lines.feed(b"d\n", 7.0) == ["1 more line", "d"]


def test_what_was_counted_is_told_at_the_end() -> None:
    lines = Lines()
    lines.feed(b"a\n" * (LINES + 5) + b"b", 0.0)
    assert lines.rest() == ["6 more lines"]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"windows\r\n", "windows"),
        (b"a\tb\n", "a\tb"),
        (b"\x1b]0;title\x07\n", r"\x1b]0;title\x07"),
        (b"10%\r20%\n", r"10%\r20%"),
        ("größer ✓\n".encode(), "größer ✓"),
        (b"not \xff text\n", r"not \xff text"),
        ("\u202eevil\u2028\x85\n".encode(), r"\u202eevil\u2028\x85"),
    ],
    ids=ascii,
)
def test_nothing_in_a_line_commands_a_terminal(written: bytes, shown: str) -> None:
    assert Lines().feed(written, 0.0) == [shown]


@given(st.lists(st.tuples(st.binary(max_size=3000), st.floats(0, 3))))
def test_any_bytes_become_bounded_printable_lines(pieces: list[tuple[bytes, float]]) -> None:
    lines, now, found = Lines(), 0.0, list[str]()
    for data, seconds in pieces:
        now += seconds
        found += lines.feed(data, now)
    for text in found + lines.rest():
        assert text.replace("\t", " ").isprintable()
        assert len(text) <= 10 * LINE_BYTES  # as many as an escape may take
    assert len(found) <= (LINES + 1) * (now + 1)


@given(st.text())
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert harmless(harmless(text)) == harmless(text)
    if text.isprintable():
        assert harmless(text) == text
