"""What the report says: its tables, and the text around them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from benchmarks import refuse, trees, trips
from benchmarks.results import MICROSECONDS, SECONDS, Sample, Table, rows, text
from benchmarks.servers import ours

PARTS = {
    trips.PINNED: "round trips, caller and servers on one CPU",
    trips.UNPINNED: "round trips on the CPUs that the kernel chooses",
    trees.PART: "trees of files",
    refuse.PART: "programs on their own library and on puffs",
}

TABLES = (
    *(
        Table(
            part,
            title,
            "multiples of a bare loop in C",
            trips.FLOOR,
            MICROSECONDS,
            [name for name in trips.SERVERS if name != trips.NO_OPEN],
            list(trips.OPERATIONS),
            pairs=(
                (trips.ASYNC, trips.PLAIN, "async def / def"),
                (trips.ISOLATED, trips.PLAIN, "isolated / direct"),
                *((ours(peer), peer, f"{peer} on puffs / its own") for peer in trips.PEERS),
            ),
            apart=[trips.NO_OPEN],
        )
        for part, title in (
            (trips.PINNED, "Round trips, caller and servers on one CPU"),
            (trips.UNPINNED, "Round trips, on the CPUs that the kernel chooses"),
        )
    ),
    Table(
        trees.PART,
        "Trees through to a directory on tmpfs",
        "multiples of passthrough_ll, an example of libfuse in C",
        trees.PASSTHROUGH,
        SECONDS,
        list(trees.PASSTHROUGH_SERVERS),
        trees.OPERATIONS,
    ),
    Table(
        trees.PART,
        "Trees in memory",
        "multiples of tmpfs, which is in the kernel",
        trees.TMPFS,
        SECONDS,
        list(trees.MEMORY_SERVERS),
        trees.OPERATIONS,
    ),
    *(
        Table(
            refuse.PART,
            f"Unchanged programs: {title}",
            f"multiples of {programs[0]}; below, of each program with its own library",
            programs[0],
            SECONDS,
            [name for program in programs for name in (program, ours(program))],
            list(refuse.STEPS),
            pairs=[
                (ours(program), program, f"{program} on puffs / its own") for program in programs
            ],
        )
        for title, programs in (
            ("a directory passed through by paths", refuse.PATHS),
            ("a directory passed through by inodes", refuse.INODES),
            ("an archive", (refuse.RATARMOUNT,)),
        )
    ),
)

NOTES = {
    trips.NO_OPEN: "it has no open, and the kernel asks for none: less than all others do",
    trees.NULL_PASSTHROUGH: "the kernel reads and writes the files itself",
    refuse.PART: "2,000 files of 8 kB are walked and read, and one of 128 MiB",
    trees.PART: "a tree has 2,600 files, 100 MB, a clone 652 files, 25 MB; x4: with four processes",
}


def reasons(missing: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line for each server that was not measured, with the parts it is missing from."""
    parts: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for part, servers in missing.items():
        for server, reason in servers.items():
            parts[server, reason].append(part)
    return [
        f"{server}: not measured ({', '.join(names)}): {reason}"
        for (server, reason), names in parts.items()
    ]


def report(
    heading: str, samples: Iterable[Sample], missing: Mapping[str, Mapping[str, str]]
) -> str:
    """Return all tables of which anything was measured, and what was not measured and why.

    `missing` has, by part and server, the reasons.
    """
    samples = list(samples)
    measured = {sample.part for sample in samples} | {sample.server for sample in samples}
    paragraphs = [heading]
    for table in TABLES:
        cells = rows(table, samples)
        if cells:
            paragraphs += [f"{table.title} ({table.note})", text(cells)]
    notes = [f"{name}: {note}" for name, note in NOTES.items() if name in measured]
    return "\n\n".join([*paragraphs, *notes, *reasons(missing)])
