"""`docs/operations.md`, made from the operation table and a recording."""

import errno
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import puffs
from puffs.attach.fuse.dispatch import ROUTES
from puffs.server.operations import OPERATIONS, REQUIRED, Kind, Operation
from tests.operations.record import Recording, Request, Row

FILE: Final = Path(__file__).parents[2] / "docs" / "operations.md"
GUARDED: Final = "Permissions that the file server checks"
_PROTOCOL: Final = re.compile(r"protocol (\d+\.\d+)")

_HEAD: Final = """\
# What is asked of a file server

Which requests the kernel sends for a call, so that you know what to expect: recorded with what
`puffs trace` shows, on Linux {release}, protocol {protocol}. `make operations` makes this page
again. Another kernel may send more or less; with another protocol version the test that compares
this page with a recording is skipped.

*Cold*: the kernel has never seen the files. *Warm*: it has looked up all of them, and read, a
moment ago, and the file server has said that names, attributes and the absence of names may be
trusted for an hour (`name_ttl`, `attr_ttl`, `negative_ttl`). When these lifetimes are over,
`lookup` and `getattr` come again as they do cold. The directory in which a call is made is known in
both cases. "—" means that nothing is asked: the kernel answers by itself. An error in brackets is
what the file server answered. Of several requests that are alike only one is shown.

The file server of the recording has every operation but `access`. Of an operation that you do not
define nothing comes, or a single request that is refused: see below, at each. `reclaim` comes when
the kernel forgets a file, whenever that is, and `inactive` after the last `close`; neither is in
the tables. The `getxattr` before a write, truncation or change of owner is for
"security.capability": since Linux 5.11 the kernel asks it once of each file that it knows, and not
for every write.

"""


def page(recording: Recording, guarded: Recording) -> str:
    """The text. `guarded`: the same calls of a file server that has `access`."""
    shown = {**recording.rows, GUARDED: _only_with_access(guarded.rows)}
    release = re.match(r"[\d.]+", os.uname().release)
    assert release is not None
    head = _HEAD.format(release=release[0], protocol=recording.protocol)
    parts = [head.rstrip("\n"), ""]
    for heading, some in shown.items():
        parts += [f"## {heading}", "", "| call | cold | warm |", "|---|---|---|"]
        parts += [f"| {_code(row.call)} | {_cell(row.cold)} | {_cell(row.warm)} |" for row in some]
        parts.append("")
    causes = _causes(shown)
    parts += ["## The operations", ""]
    for operation in OPERATIONS.values():
        parts += [*_section(operation, causes.get(operation.name, [])), ""]
    return "\n".join(parts).replace("\n\n\n", "\n\n")


def protocol_of(text: str) -> str:
    """The protocol version with which a page was recorded."""
    found = _PROTOCOL.search(text)
    assert found is not None
    return found[1]


def without_release(text: str) -> str:
    """A page as it is on every kernel of its protocol version."""
    return re.sub(r"on Linux [\d.]+, ", "", text)


def _only_with_access(rows: Mapping[str, Sequence[Row]]) -> list[Row]:
    return [
        row
        for some in rows.values()
        for row in some
        if any(request.operation == "access" for request in (*row.cold, *row.warm))
    ]


def _code(call: str) -> str:
    """A call in a row of a table, where a bar would begin the next cell."""
    return "`" + call.replace("|", r"\|") + "`"


def _cell(requests: Sequence[Request]) -> str:
    """Requests as links; of several alike in a row only one."""
    told = [
        f"[{request.operation}](#{request.operation})"
        + (f" {request.name}" if request.name else "")
        + (f" ({request.error})" if request.error else "")
        for request in requests
    ]
    return " · ".join(dict.fromkeys(told)) or "—"


def _causes(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[str]]:
    """The calls of each operation."""
    causes: dict[str, dict[str, None]] = {}
    for some in rows.values():
        for row in some:
            for request in (*row.cold, *row.warm):
                causes.setdefault(request.operation, {})[row.call] = None
    return {name: list(calls) for name, calls in causes.items()}


def _section(operation: Operation, calls: Sequence[str]) -> Iterator[str]:
    method = getattr(puffs.FileSystem, operation.name)
    yield f"### {operation.name}"
    yield ""
    yield f"`{operation.name}{_signature(method)}`"
    yield ""
    yield _summary(method)
    yield ""
    yield f"*Not defined:* {_missing(operation)}"
    if calls:
        yield ""
        yield f"*Asked by:* {', '.join(f'`{call}`' for call in calls)}"


def _signature(method: Callable[..., Any]) -> str:
    """Without `self`, and without types: the docstring says what they are."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    names = (
        name.name if name.default is name.empty else f"{name.name}={name.default!r}"
        for name in parameters
    )
    return f"({', '.join(names)})"


def _summary(method: object) -> str:
    """The docstring, with whatever it says of when it is called, in one paragraph or more."""
    text = inspect.getdoc(method) or ""
    return "\n\n".join(" ".join(part.split()) for part in textwrap.dedent(text).split("\n\n"))


def _missing(operation: Operation) -> str:
    if operation.name in REQUIRED:
        return "there is no file system without it."
    if operation.kind is Kind.ERROR or operation.faf:
        return "nothing is told."
    answer = (
        "the call succeeds."
        if not operation.missing
        else f"{errno.errorcode[operation.missing].replace('ENOTSUP', 'EOPNOTSUPP')}."
    )
    once = any(
        route.operation == operation.name and route.absent == errno.ENOSYS
        for route in ROUTES.values()
    )
    return (
        f"{answer} The kernel is told once and answers by itself from then on." if once else answer
    )
