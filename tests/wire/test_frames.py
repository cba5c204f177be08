"""Frames, byte by byte: written by hand, there and back at their limits, cut, damaged, refused."""

from array import array
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puffs.isolate import frames
from puffs.isolate.frames import Class, FrameError, Layout
from tests.wire.fields import FIELDS, IMAGE, ONE_AND_A_HALF, u8, u16, u32, u64

Head = frames.Request | frames.Reply

HEAD = (7, 2**64 - 1, 1000, 100, 4321, 3)
"""id, node, uid, gid, tid, room."""
ROOM = memoryview(bytearray(1 << 20))
"""The memory of that room."""
REQUEST = (*HEAD, ROOM)
NOBODY = (*frames.NOBODY, frames.NO_ROOM)
ALL = ("unsigned", "text", *FIELDS)
"""Kinds of a body that has everything, also two fields of unknown length in a row."""


def request(*kinds: str) -> bytes:
    """A request with a body of these kinds."""
    pack = Layout(*kinds).requests(Class.VN, 12)
    return pack(*REQUEST, *(FIELDS[kind][0] for kind in kinds))


def reply(*kinds: str) -> bytes:
    return Layout(*kinds).replies(Class.VN, 12)(7, 0, ROOM, *(FIELDS[kind][0] for kind in kinds))


def decoded(frame: bytes, *kinds: str) -> tuple[Head, list[Any]]:
    """Header and values of a packet of one frame; the values are not views any more."""
    view = memoryview(frame)
    ((at, end),) = frames.split(view, len(view))
    is_reply = frame[5] & frames.RESPONSE
    head = frames.reply(view, at, end) if is_reply else frames.request(view, at, end)
    size = frames.REPLY_SIZE if is_reply else frames.REQUEST_SIZE
    return head, body(view, at + size, end, head[-1], *kinds)


def body(packet: memoryview, at: int, end: int, tail: int, *kinds: str) -> list[Any]:
    return plain(Layout(*kinds).unpack(packet, at, end, ROOM if tail else None))


def plain(values: Any) -> list[Any]:
    return [
        tuple(plain(value))
        if isinstance(value, tuple)
        else (bytes(value) if isinstance(value, memoryview) else value)
        for value in values
    ]


def encoded(head: Head, values: list[Any], *kinds: str) -> bytes:
    """The frame that has these, whose tail is in the frame."""
    class_, type_, id_, *rest, _ = head
    if len(rest) == 1:
        return Layout(*kinds).replies(class_, type_)(id_, *rest, None, *values)
    return Layout(*kinds).requests(class_, type_, faf=id_ == 0)(id_, *rest, None, *values)


def refused(call: Callable[..., object], *args: Any) -> bool:
    try:
        call(*args)
    except FrameError:
        return True
    return False


# ------------------------------------------------------------------------------------ by hand


AGAIN = "other bytes for the same message: raise frames.VERSION, and then change this test"


@pytest.mark.statement("2.3")
def test_a_request_by_hand() -> None:
    by_hand = u8(1) + u8(2) + u16(12) + u64(7) + b"\xff" * 8
    by_hand += u32(1000) + u32(100) + u32(4321) + u32(3) + u64(5) + u64(-6)
    frame = Layout("unsigned", "signed").requests(Class.VN, 12)(*REQUEST, 5, -6)
    assert frame == u32(4 + len(by_hand)) + by_hand, AGAIN
    head, values = decoded(frame, "unsigned", "signed")
    assert head == (Class.VN, 12, *HEAD, 0)
    assert values == [5, -6]


def test_a_request_that_is_not_answered_by_hand() -> None:
    by_hand = u8(1) + u8(0x11) + u16(300) + u64(0) + u64(9) + b"\xff" * 8 + u32(0) + u32(-1)
    frame = Layout().requests(Class.VFS, 300, faf=True)(0, 9, *NOBODY, None)
    assert frame == u32(4 + len(by_hand)) + by_hand, AGAIN
    assert decoded(frame) == ((Class.VFS, 300, 0, 9, *NOBODY, 0), [])


def test_a_reply_by_hand() -> None:
    by_hand = u8(1) + u8(0x22) + u16(12) + u64(7) + u64(0) + u64(17) + u64(-5) + IMAGE
    frame = reply("attr")
    assert frame == u32(4 + len(by_hand)) + by_hand, AGAIN
    assert decoded(frame, "attr") == ((Class.VN, 12, 7, 0, 0), [(17, -5, IMAGE)])


@pytest.mark.parametrize("kind", frames.FIELDS)
def test_a_field_by_hand(kind: str) -> None:
    value, numbers, rest = FIELDS[kind]
    assert reply(kind)[frames.REPLY_SIZE :] == numbers + rest, AGAIN
    assert decoded(reply(kind), kind)[1] == [value]


def test_what_has_no_fixed_length_comes_last() -> None:
    expected = b"".join(FIELDS[kind][1] for kind in ALL) + b"".join(FIELDS[kind][2] for kind in ALL)
    assert request(*ALL)[frames.REQUEST_SIZE :] == expected, AGAIN
    assert decoded(request(*ALL), *ALL)[1] == [FIELDS[kind][0] for kind in ALL]


def test_records_by_hand() -> None:
    entry, bytes_of_entry, _ = FIELDS["entry"]
    bare = u64(-1) + u64(17) + u8(0o10) + u8(0) + u16(3) + b"abc"
    full = u64(2) + u64(0) + u8(0o4) + u8(1) + u16(0) + bytes_of_entry
    assert frames.pack_dirent(-1, 17, 0o10, b"abc", None) == bare, AGAIN
    assert frames.pack_dirent(2, 0, 0o4, b"", entry) == full, AGAIN
    assert frames.unpack_dirents(memoryview(bare + full)) == [
        (-1, 17, 0o10, b"abc", None),
        (2, 0, 0o4, b"", entry),
    ]
    drops = u64(2**64 - 1) + u32(3) + u32(0) + u64(4) + u32(2**32 - 1) + u32(5)
    assert frames.pack_drops([(2**64 - 1, 3, 0), (4, 2**32 - 1, 5)]) == drops, AGAIN
    assert frames.unpack_drops(memoryview(drops)) == [(2**64 - 1, 3, 0), (4, 2**32 - 1, 5)]
    groups = u32(0) + u32(2**32 - 1)
    assert frames.pack_groups([0, 2**32 - 1]) == groups, AGAIN
    assert frames.unpack_groups(memoryview(groups)) == (0, 2**32 - 1)


# --------------------------------------------------------------------------------- at the limits

RANGES = {
    code: range(-(sign << bits - 1), (1 << bits) - (sign << bits - 1))
    for code, bits, sign in (
        *(("B", 8, 0), ("H", 16, 0), ("I", 32, 0), ("Q", 64, 0)),
        *(("i", 32, 1), ("q", 64, 1)),
    )
}
FLAGS = {("flag", 0), ("lock", 4)}


def members(kind: str) -> Iterator[str]:
    """The codes of the numbers of a field; flags have one of their own."""
    codes = frames.FIELDS[kind].codes.replace("80s", "s")
    for at, code in enumerate(codes):
        yield "?" if (kind, at) in FLAGS else code


def numbers(code: str) -> st.SearchStrategy[Any]:
    """What may stand there: the limits, and anything between them."""
    if code == "s":
        return st.binary(min_size=80, max_size=80)
    if code == "d":
        return st.floats(allow_nan=False)
    if code == "?":
        return st.integers(0, 1)
    least, most = RANGES[code][0], RANGES[code][-1]
    return st.sampled_from((least, 0, 1, most)) | st.integers(least, most)


def values(kind: str) -> st.SearchStrategy[Any]:
    parts = [numbers(code) for code in members(kind)]
    most = frames.FIELDS[kind].most
    if most is not None:
        size = st.sampled_from((0, 1, most - 1, most)) | st.integers(0, 20)
        parts.append(st.builds(lambda size, byte: bytes([byte]) * size, size, st.integers(0, 255)))
    return parts[0] if len(parts) == 1 else st.tuples(*parts)


@pytest.mark.parametrize("kind", frames.FIELDS)
@settings(max_examples=30)
@given(st.data())
def test_what_was_packed_is_unpacked(kind: str, data: st.DataObject) -> None:
    value, before = data.draw(values(kind)), data.draw(numbers("q"))
    for layout in (Layout(kind), Layout("signed", kind)):
        given_ = [before, value][-len(layout.kinds) :]
        pack = layout.requests(Class.VN, 0xFFFF)
        head, found = decoded(pack(*REQUEST, *given_), *layout.kinds)
        assert head[:-1] == (Class.VN, 0xFFFF, *HEAD)
        assert found == given_
        head, found = decoded(
            layout.replies(Class.VN, 0)(7, -(2**63), ROOM, *given_), *layout.kinds
        )
        assert head[:-1] == (Class.VN, 0, 7, -(2**63))
        assert found == given_


def misfits() -> Iterator[Any]:
    """Each kind with one number beyond its limits, and with bytes too many."""
    for kind, field in frames.FIELDS.items():
        good = FIELDS[kind][0] if field.width > 1 else (FIELDS[kind][0],)
        for at, code in enumerate(members(kind)):
            wrong: list[Any] = [None, "1", b"", [1], 1.5, 1 << 64, 10**400, -(1 << 63) - 1]
            if code == "?":
                wrong += [2, 255]
            elif code == "s":
                wrong += [bytes(79), bytes(81), bytearray(79), memoryview(IMAGE), "a" * 80]
            elif code == "d":
                wrong = [None, "1", b"", 10**400]
            else:
                wrong += [RANGES[code][0] - 1, RANGES[code][-1] + 1]
            for value in wrong:
                yield kind, (*good[:at], value, *good[at + 1 :])
        if field.most is not None:
            released = memoryview(b"gone")
            released.release()
            for rest in (
                bytes(field.most + 1),
                array("Q", bytes(field.most + 8)),
                memoryview(b"abcd")[::2],
                released,
                *("text", None, 5, [1, 2], (b"a", b"b")),
            ):
                yield kind, (*good[:-1], rest)
        if field.width > 1:
            yield kind, (good[:-1],)
            yield kind, ((*good, 0),)
            yield kind, (5,)
            yield kind, (bytes(field.width),)


@pytest.mark.parametrize("kind", frames.FIELDS)
def test_what_does_not_fit_is_not_packed(kind: str) -> None:
    width = frames.FIELDS[kind].width
    for parts in (parts for of, parts in misfits() if of == kind):
        value = parts if len(parts) == width > 1 else parts[0]
        assert refused(Layout(kind).requests(Class.VN, 12), *REQUEST, value), value
        assert refused(Layout("text", kind).replies(Class.VN, 12), 7, 0, ROOM, b"text", value), (
            value
        )


def test_a_number_of_values_that_is_wrong() -> None:
    with pytest.raises(FrameError):
        Layout("unsigned").requests(Class.VN, 12)(*REQUEST)
    for wrong in ((), (b"one", b"two")):
        with pytest.raises(FrameError):
            Layout("text").requests(Class.VN, 12)(*REQUEST, *wrong)
    # Together the two have as many numbers as belong.
    one, other = FIELDS["lock"][0][:4], (*FIELDS["lock"][0], 1)
    with pytest.raises(FrameError):
        Layout("lock", "lock").replies(Class.VN, 12)(7, 0, None, one, other)
    # The same of header and body.
    with pytest.raises(FrameError):
        Layout("lock").replies(Class.VN, 12)(7, None, other)
    with pytest.raises(FrameError):
        Layout("lock").replies(Class.VN, 12)(7, 0, None, 0, one)


@pytest.mark.parametrize("at", range(6))
def test_a_header_that_does_not_fit_is_not_packed(at: int) -> None:
    for kinds in ((), ("text",)):
        for wrong in (-1 if at < 5 else 1 << 31, 1 << 64, "1", None, 1.5):
            head = (*REQUEST[:at], wrong, *REQUEST[at + 1 :])
            with pytest.raises(FrameError):
                Layout(*kinds).requests(Class.VN, 12)(*head, *(b"text" for _ in kinds))
    with pytest.raises(FrameError):
        Layout().replies(Class.VN, 12)(7, 1 << 63, None)


def test_an_id_belongs_to_what_is_answered_and_to_nothing_else() -> None:
    for kinds in ((), ("text",)):
        rest = (1, *NOBODY, None, *(b"text" for _ in kinds))
        with pytest.raises(FrameError, match="with the id 0"):
            Layout(*kinds).requests(Class.VN, 12)(0, *rest)
        with pytest.raises(FrameError, match="with the id 5"):
            Layout(*kinds).requests(Class.VN, 12, faf=True)(5, *rest)
    for class_, id_ in ((0x02, 0), (0x12, 5)):
        frame = bytearray(request())
        frame[5], frame[8:16] = class_, u64(id_)
        with pytest.raises(FrameError, match=f"with the id {id_}"):
            decoded(bytes(frame))


def test_bytes_are_counted_as_bytes() -> None:
    numbers_ = array("I", [1, 2, 3])
    for same in (numbers_, memoryview(numbers_), bytearray(numbers_.tobytes())):
        frame = Layout("bytes", "text").replies(Class.VN, 12)(7, 0, None, same, b"next")
        assert decoded(frame, "bytes", "text")[1] == [numbers_.tobytes(), b"next"]
    empty = Layout("bytes").replies(Class.VN, 12)(7, 0, None, array("I"))
    assert decoded(empty, "bytes")[1] == [b""]


def test_a_tail_that_is_too_long_for_a_frame_is_in_the_room() -> None:
    kinds = ("text", "bytes", "unsigned")
    most = frames.FRAME_MAX - frames.REPLY_SIZE - 4 - 4 - 8
    pack = Layout(*kinds).replies(Class.VN, 12)
    just = pack(7, 0, None, b"text", bytes(most - 4), 5)
    assert len(just) == frames.FRAME_MAX
    assert decoded(just, *kinds) == ((Class.VN, 12, 7, 0, 0), [b"text", bytes(most - 4), 5])

    long = b"\x01" * (most - 3)
    frame = pack(7, 0, ROOM, b"text", long, 5)
    by_hand = u8(1) + u8(0x62) + u16(12) + u64(7) + u64(0) + u32(4) + u32(len(long)) + u64(5)
    assert frame == u32(4 + len(by_hand)) + by_hand, AGAIN
    assert ROOM[: most + 1] == b"text" + long, AGAIN
    assert decoded(frame, *kinds) == ((Class.VN, 12, 7, 0, frames.TAIL), [b"text", long, 5])

    with pytest.raises(FrameError, match=f"{most + 1} bytes, for which a frame has no room"):
        pack(7, 0, None, b"text", long, 5)
    with pytest.raises(FrameError, match=f"{most + 1} bytes, for which a frame has no room"):
        pack(7, 0, ROOM[:most], b"text", long, 5)


def test_a_tail_that_is_elsewhere_is_nowhere_else() -> None:
    room = memoryview(b"0123456789")
    layout = Layout("text", "bytes")
    numbers_ = memoryview(u32(4) + u32(6))
    assert plain(layout.unpack(numbers_, 0, 8, room)) == [b"0123", b"456789"]
    assert plain(layout.unpack(numbers_, 0, 8, memoryview(bytes(room) + b"more"))) == [
        b"0123",
        b"456789",
    ]
    for refused_ in (numbers_.tobytes() + b"0", numbers_.tobytes() + b"0123456789"):
        with pytest.raises(FrameError):
            layout.unpack(memoryview(refused_), 0, len(refused_), room)
    for wrong in (u32(5) + u32(6), u32(11) + u32(0), u32(2**32 - 1) + u32(11)):
        with pytest.raises(FrameError):
            layout.unpack(memoryview(wrong), 0, 8, room)


def test_the_reason_names_the_kinds() -> None:
    with pytest.raises(FrameError, match=r"unsigned.*signed"):
        Layout("unsigned", "signed").replies(Class.VN, 12)(7, 0, None, -1, 0)


# ---------------------------------------------------------------------------------------- records

ENTRY = FIELDS["entry"][0]


def with_entry(at: int, value: Any) -> tuple[Any, ...]:
    return (*ENTRY[:at], value, *ENTRY[at + 1 :])


DIRENTS = st.tuples(
    numbers("q"),
    numbers("Q"),
    st.integers(0, 0o17),
    st.binary(max_size=20) | st.just(bytes(frames.TEXT_MAX)),
    st.none() | values("entry"),
)


@given(st.lists(DIRENTS, max_size=5))
def test_a_listing_there_and_back(entries: list[Any]) -> None:
    listing = b"".join(frames.pack_dirent(*entry) for entry in entries)
    assert frames.unpack_dirents(memoryview(listing)) == entries
    assert len(listing) <= len(entries) * frames.DIRENT_MAX <= 5 * frames.LISTING_MAX


@given(
    st.lists(st.tuples(numbers("Q"), numbers("I"), numbers("I")), max_size=9),
    st.lists(numbers("I"), max_size=9),
)
def test_lists_there_and_back(drops: list[tuple[int, int, int]], groups: list[int]) -> None:
    assert frames.unpack_drops(memoryview(frames.pack_drops(drops))) == drops
    assert frames.unpack_groups(memoryview(frames.pack_groups(groups))) == tuple(groups)


def test_the_longest_lists() -> None:
    drops, groups = [(2, 1, 0)] * frames.DROPS_MAX, [3] * frames.GROUPS_MAX
    assert frames.unpack_drops(memoryview(frames.pack_drops(drops))) == drops
    assert frames.unpack_groups(memoryview(frames.pack_groups(groups))) == tuple(groups)
    # Nobody answers these, so that they have no room: they must fit.
    Layout("bytes").requests(Class.OWN, 2)(*HEAD, None, frames.pack_drops(drops))
    Layout("cred").requests(Class.VN, 2)(*HEAD, None, (*[0] * 6, frames.pack_groups(groups)))
    entry = frames.pack_dirent(1, 2, 3, bytes(frames.TEXT_MAX), ENTRY)
    assert len(entry) == frames.DIRENT_MAX
    Layout("listing").replies(Class.VN, 2)(7, 0, ROOM, (0, entry))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: frames.pack_dirent(1 << 63, 0, 0, b"", None),
        lambda: frames.pack_dirent(0, -1, 0, b"", None),
        lambda: frames.pack_dirent(0, 0, 0o20, b"", None),
        lambda: frames.pack_dirent(0, 0, -1, b"", None),
        lambda: frames.pack_dirent(0, 0, 0, bytes(frames.TEXT_MAX + 1), None),
        lambda: frames.pack_dirent(0, 0, 0, "name", None),  # type: ignore[arg-type]
        lambda: frames.pack_dirent(0, 0, 0, memoryview(array("I", [1])), None),  # type: ignore[arg-type]
        lambda: frames.pack_dirent(0, 0, 0, b"", ENTRY[:-1]),
        lambda: frames.pack_dirent(0, 0, 0, b"", with_entry(0, 256)),
        lambda: frames.pack_dirent(0, 0, 0, b"", with_entry(6, bytes(79))),
        lambda: frames.pack_dirent(0, 0, 0, b"", with_entry(6, bytes(81))),
        lambda: frames.pack_drops([(1, 2, 0), (1 << 64, 1, 0)]),
        lambda: frames.pack_drops([(1, 2, 0), (1, -1, 0)]),
        lambda: frames.pack_drops([(1, 2)]),  # type: ignore[list-item]
        lambda: frames.pack_drops([(1, 1, 0)] * (frames.DROPS_MAX + 1)),
        lambda: frames.pack_groups([1 << 32]),
        lambda: frames.pack_groups([None]),  # type: ignore[list-item]
        lambda: frames.pack_groups([1] * (frames.GROUPS_MAX + 1)),
        lambda: frames.unpack_drops(memoryview(bytes(16 * frames.DROPS_MAX + 16))),
        lambda: frames.unpack_groups(memoryview(bytes(4 * frames.GROUPS_MAX + 4))),
    ],
)
def test_records_that_do_not_fit(wrong: Callable[[], object]) -> None:
    with pytest.raises(FrameError):
        wrong()


def test_a_listing_that_was_cut_or_damaged() -> None:
    listing = frames.pack_dirent(1, 2, 3, b"abc", None) + frames.pack_dirent(4, 5, 6, b"de", ENTRY)
    whole = {0, len(frames.pack_dirent(1, 2, 3, b"abc", None)), len(listing)}
    for length in set(range(len(listing))) - whole:
        assert refused(frames.unpack_dirents, memoryview(listing)[:length]), length
    for other in damaged(listing):
        try:
            entries = frames.unpack_dirents(memoryview(other))
        except FrameError:
            continue
        assert b"".join(frames.pack_dirent(*entry) for entry in entries) == other
    for size, unpack in ((16, frames.unpack_drops), (4, frames.unpack_groups)):
        for length in set(range(3 * size)) - {0, size, 2 * size}:
            with pytest.raises(FrameError):
                unpack(memoryview(bytes(length)))


# ---------------------------------------------------------------------------- cut, damaged, hostile


def damaged(frame: bytes) -> Iterator[bytes]:
    """Each byte of it as each of some others: one bit flipped, all, or none and all set."""
    for at, byte in enumerate(frame):
        for other in {*(byte ^ 1 << bit for bit in range(8)), byte ^ 0xFF, 0, 0xFF} - {byte}:
            yield frame[:at] + bytes([other]) + frame[at + 1 :]


CASES = [*((kind,) for kind in FIELDS), (), ("unsigned", "signed"), ALL]


@pytest.mark.parametrize("kinds", CASES, ids="-".join)
def test_a_packet_that_was_cut(kinds: tuple[str, ...]) -> None:
    for frame in (request(*kinds), reply(*kinds)):
        for length in range(1, len(frame)):
            with pytest.raises(FrameError):
                decoded(frame[:length], *kinds)
            # The same where the rest of the buffer still has what was there before.
            with pytest.raises(FrameError):
                list(frames.split(memoryview(frame), length))


def test_a_packet_that_was_cut_between_two_frames() -> None:
    packet = memoryview(request() + reply("attr"))
    first = len(request())
    assert list(frames.split(packet, len(packet))) == [(0, first), (first, len(packet))]
    # What recv(2) tells with MSG_TRUNC, and what of it has come.
    with pytest.raises(FrameError, match=f"{len(packet)} bytes, where {first} have room"):
        frames.split(packet[:first], len(packet))


def test_a_packet_that_is_too_long() -> None:
    assert frames.BUFFER_SIZE > frames.FRAME_MAX
    buffer = memoryview(reply() * 300)
    with pytest.raises(FrameError, match="4097 bytes, where 4096 have room"):
        frames.split(buffer, frames.BUFFER_SIZE)
    for size, decode in ((frames.REQUEST_SIZE, request), (frames.REPLY_SIZE, reply)):
        frame = decode("bytes")[:size] + u32(frames.BUFFER_SIZE - size - 4)
        frame = u32(frames.BUFFER_SIZE) + frame[4:] + bytes(frames.BUFFER_SIZE - size - 4)
        assert lone(frame) == (None, None)
        with pytest.raises(FrameError):
            frames.split(frame, len(frame))


def lone(packet: bytes) -> tuple[frames.Request | None, frames.Reply | None]:
    view = memoryview(packet.ljust(frames.BUFFER_SIZE, b"\0"))
    return frames.lone_request(view, len(packet)), frames.lone_reply(view, len(packet))


def heads(packet: bytes) -> tuple[frames.Request | None, frames.Reply | None]:
    """The same in more steps."""
    try:
        ((at, end),) = frames.split(packet, len(packet))
    except (FrameError, ValueError):
        return None, None

    def head(decode: Callable[[bytes, int, int], Any]) -> Any:
        try:
            return decode(packet, at, end)
        except FrameError:
            return None

    return head(frames.request), head(frames.reply)


def test_a_packet_of_one_frame() -> None:
    for kinds in CASES:
        asked, answered = request(*kinds), reply(*kinds)
        assert lone(asked) == heads(asked) == (decoded(asked, *kinds)[0], None)
        assert lone(answered) == heads(answered) == (None, decoded(answered, *kinds)[0])
        for packet in (asked + answered, answered + asked, asked + b"\0", answered[:-1]):
            assert lone(packet) == (None, None)
    for length in range(frames.REQUEST_SIZE):
        assert lone(request()[:length]) == (None, None)
    for length in range(frames.REPLY_SIZE):
        assert lone(reply()[:length]) == (None, None)


def test_what_is_well_comes_before_what_is_not() -> None:
    packet = memoryview(request() + reply() + b"\0" * 30)
    found = iter(frames.split(packet, len(packet)))
    assert [next(found), next(found)] == [(0, 40), (40, 64)]
    with pytest.raises(FrameError):
        next(found)


def test_a_packet_of_nothing_but_frames_of_no_length() -> None:
    for size in (0, 1, frames.REPLY_SIZE - 1):
        packet = u32(size) * (frames.FRAME_MAX // 4)
        with pytest.raises(FrameError):
            list(frames.split(packet, len(packet)))
    assert len(list(frames.split(reply() * 170, 170 * 24))) == 170


@pytest.mark.parametrize("kinds", CASES, ids="-".join)
def test_a_damaged_frame(kinds: tuple[str, ...]) -> None:
    """It is none, or another one: what packs to the very same bytes."""
    for frame in (request(*kinds), reply(*kinds)):
        for other in damaged(frame):
            assert lone(other) == heads(other)
            try:
                head, found = decoded(other, *kinds)
            except FrameError:
                continue
            if not head[-1]:
                assert encoded(head, found, *kinds) == other


@pytest.mark.parametrize("class_", range(256))
def test_any_class(class_: int) -> None:
    low = class_ & 0xF
    known, flags = low in set(Class), class_ - low
    unanswered = Layout().requests(Class.VN, 12, faf=True)(0, *REQUEST[1:])
    for frame, good in (
        (request(), known and flags in (0, frames.TAIL)),
        (unanswered, known and flags == frames.FAF),
        (reply(), known and flags in (frames.RESPONSE, frames.RESPONSE | frames.TAIL)),
    ):
        other = frame[:5] + u8(class_) + frame[6:]
        assert lone(other) == heads(other)
        decode = frames.reply if len(frame) == frames.REPLY_SIZE else frames.request
        if good:
            head = decode(other, 0, len(other))
            assert (head[0], head[-1]) == (low, class_ & frames.TAIL)
        else:
            with pytest.raises(FrameError):
                decode(other, 0, len(other))


def test_another_version() -> None:
    for decode, frame in ((frames.request, request()), (frames.reply, reply())):
        with pytest.raises(FrameError, match="a frame of version 2, where 1 is spoken"):
            decode(frame[:4] + u8(2) + frame[5:], 0, len(frame))


def test_headers_that_do_not_fit_into_the_frame() -> None:
    for length in range(frames.REQUEST_SIZE):
        with pytest.raises(FrameError):
            frames.request(request(), 0, length)
    for length in range(frames.REPLY_SIZE):
        with pytest.raises(FrameError):
            frames.reply(reply(), 0, length)


def test_lengths_that_only_fit_together() -> None:
    """One field may not take what another one's number says."""
    frame = bytearray(request("text", "text"))
    for one, other, wrong in ((0, 10, False), (10, 0, False), (11, 0, True), (4, 5, True)):
        frame[40:48] = u32(one) + u32(other)
        if wrong:
            with pytest.raises(FrameError):
                decoded(bytes(frame), "text", "text")
        else:
            _, found = decoded(bytes(frame), "text", "text")
            assert [len(text) for text in found] == [one, other]


def test_views_are_inside_of_the_frame() -> None:
    """Whatever stands around it in the packet."""
    kinds = ("text", "bytes", "data", "names")
    frame = request(*kinds)
    packet = memoryview(reply("names") + frame + reply("names"))
    _, (at, end), _ = frames.split(packet, len(packet))
    found = list(Layout(*kinds).unpack(packet, at + frames.REQUEST_SIZE, end))
    assert plain(found) == [FIELDS[kind][0] for kind in kinds]
    assert {view.obj for view in found} == {packet.obj}
    assert sum(map(len, found)) == end - at - frames.REQUEST_SIZE - 4 * 4


DECODERS: tuple[tuple[Callable[[memoryview, int, int], Head], int], ...] = (
    (frames.request, frames.REQUEST_SIZE),
    (frames.reply, frames.REPLY_SIZE),
)

any_bytes = st.binary(max_size=300) | st.builds(
    lambda heads, rest: b"".join(chain(heads)) + rest,
    st.lists(st.sampled_from([request("text"), reply("attr"), request(*ALL)]), max_size=3),
    st.binary(max_size=60),
)


@given(any_bytes, st.integers(0, 400), st.sampled_from(CASES))
def test_any_bytes(data: bytes, length: int, kinds: tuple[str, ...]) -> None:
    packet = memoryview(data)
    try:
        for at, end in frames.split(packet, length):
            assert frames.REPLY_SIZE <= end - at <= length - at
            for decode, size in DECODERS:
                try:
                    head = decode(packet, at, end)
                    found = body(packet, at + size, end, head[-1], *kinds)
                except FrameError:
                    continue
                if not head[-1]:
                    assert encoded(head, found, *kinds) == data[at:end]
    except FrameError:
        pass


def test_a_lifetime_may_be_any_number() -> None:
    """What is no lifetime is for others to say; it comes as it was sent."""
    for special in (float("inf"), float("-inf"), -0.0):
        value = (special, 0.0, 1.5)
        frame = Layout("lifetimes").replies(Class.VN, 12)(7, 0, None, value)
        assert frame.endswith(u64(0) + ONE_AND_A_HALF)
        assert decoded(frame, "lifetimes")[1] == [value]
