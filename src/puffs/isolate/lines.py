"""What a process writes, as lines for a log or a terminal that nothing in them can harm."""

from typing import Final

LINE_BYTES: Final = 1000
"""What is longer is cut."""
LINES: Final = 100
"""How many lines of one second are kept; the others are only counted."""


class Lines:
    """Cuts what a process writes into lines, in bounded memory and number.

    No input or output, and no clock. Who reads feeds what has come, and from time to time nothing.
    """

    def __init__(self) -> None:
        self._part = b""  # a line whose end has not come; one byte too many says that it is cut
        self._second = float("-inf")
        self._kept = self._more = 0

    def feed(self, data: bytes, now: float) -> list[str]:
        """The lines that `data` ends.

        When lines were left out, a line says how many, once their second has passed.

        Args:
            data: may be empty.
            now: seconds of a clock that does not go back.
        """
        lines = []
        if now >= self._second + 1:
            lines += self._count()
            self._second = now
        *ends, part = data.split(b"\n")
        for end in ends:
            self._append(end)
            lines += self._line()
        self._append(part)
        return lines

    def rest(self) -> list[str]:
        """What is left when nothing more will come: a line without an end, and the count."""
        return (self._line() if self._part else []) + self._count()

    def _append(self, data: bytes) -> None:
        self._part += data[: LINE_BYTES + 1 - len(self._part)]

    def _line(self) -> list[str]:
        part, self._part = self._part, b""
        if self._kept == LINES:
            self._more += 1
            return []
        self._kept += 1
        text = part[:LINE_BYTES].removesuffix(b"\r").decode("utf-8", "backslashreplace")
        return [harmless(text) + ("..." if len(part) > LINE_BYTES else "")]

    def _count(self) -> list[str]:
        more, self._more, self._kept = self._more, 0, 0
        return [f"{more} more line{'s' * (more > 1)}"] if more else []


def harmless(text: str) -> str:
    """`text` with what a terminal would obey written as an escape: control characters and like."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode()
        for char in text
    )
