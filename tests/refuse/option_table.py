"""The table of options in docs/migrating.md, from the one that is obeyed.

`python -m tests.refuse.option_table` writes it anew.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from puffs.attach.fuse.options import SetFlag
from puffs.refuse.options import OPTIONS, Always, NoDifference, Option, Refused

PAGE: Final = Path(__file__).resolve().parents[2] / "docs/migrating.md"
BEGIN, END = "<!-- options: begin -->\n", "<!-- options: end -->\n"


def outcome(option: Option) -> str:
    match option.effect:
        case Always(how):
            return f"always so: {how}"
        case NoDifference(why):
            return f"no difference: {why}"
        case Refused(why, remedy):
            return f"**refused**: {why}; {remedy}"
        case SetFlag() | _:
            return "done"


def lines() -> Iterator[str]:
    yield "| option | libfuse | what it asks for | on puffs |"
    yield "|---|---|---|---|"
    for option in OPTIONS:
        known = " and ".join(option.known.split()) or "fusepy's own"
        yield f"| `{option.usage}` | {known} | {option.help} | {outcome(option)} |"


def table() -> str:
    return "".join(f"{line}\n" for line in lines())


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + table() + END + after)


if __name__ == "__main__":
    main()
