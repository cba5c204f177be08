"""The same server on the library that it was written for, and on puffs: what callers see of both.

A server is a program of `servers/`, which imports `fuse`, `mfusepy`, `pyfuse3` or `llfuse` like
anybody's. Another process (`caller.py`) makes the calls of `cases/` on what it has mounted.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.fuse.conftest import give_back
from tests.refuse import lives
from tests.refuse.different import row_for
from tests.refuse.stage import HERE, REPOSITORY, Stage, Twin

RECORDED: Final = HERE / "recorded"
OTHERWISE: Final = HERE / "otherwise"
KERNEL: Final = tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])

LIMIT: Final = 160.0
"""Seconds for all calls on one mount. Whoever waits for longer gets an error."""

Answers = dict[str, dict[str, Any]]
"""By case and label."""


def answers(twin: Twin, *, stock: bool) -> Answers:
    """Run a server, make its calls, and return what came of them."""
    with tempfile.TemporaryDirectory(prefix="twins-") as name:
        directory = Path(name).resolve()
        directory.chmod(0o755)
        stage = Stage(twin, stock, directory)
        if twin.life is not None:
            return {"life": twin.life(stage)}
        with stage.serving():
            return _called(stage)


def _called(stage: Stage) -> Answers:
    """What a caller in another process sees of a mount."""
    given = {
        "mountpoint": str(stage.mountpoint),
        "backing": str(stage.backing) if "{backing}" in stage.twin.command else None,
        "side": str(stage.side) if "{side}" in stage.twin.command else None,
        "sections": stage.twin.sections,
    }
    command = [sys.executable, "-m", "tests.refuse.caller", json.dumps(given)]
    caller = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    too_long = threading.Timer(LIMIT, give_back, [stage.mountpoint])
    too_long.start()
    try:
        told, said = caller.communicate()
    finally:
        too_long.cancel()
    assert caller.returncode == 0, said.decode(errors="replace") + stage.said()
    found: Answers = {}
    for line in told.splitlines():
        found |= json.loads(line)
    return found


def differences(name: str, found: Answers) -> Iterator[str]:
    """What puffs answers neither as the library, nor as was written down: a line for each."""
    for case, label, theirs, ours in unlike(expected(name), found):
        yield f"{case}: {label}: {theirs!r}; on puffs {ours!r}"


def unlike(theirs: Answers, ours: Answers) -> Iterator[tuple[str, str, Any, Any]]:
    """Case, label and both answers, where they are not the same."""
    for case in dict.fromkeys([*theirs, *ours]):
        labels, others = theirs.get(case, {}), ours.get(case, {})
        for label in dict.fromkeys([*labels, *others]):
            if labels.get(label) != others.get(label):
                yield case, label, labels.get(label), others.get(label)


def expected(name: str) -> Answers:
    """What puffs is to answer: as the library, but for what is written down, on this kernel."""
    answers = recorded(name)
    for case, labels in otherwise(name).items():
        for label, answer in labels.items():
            row = row_for(name, case, label)
            if row is None or row.since <= KERNEL:
                answers.setdefault(case, {})[label] = answer
    return answers


def record_of(name: str) -> Path:
    """The file of what a library answered."""
    return RECORDED / f"{name.replace(' ', '-')}.json"


def otherwise_of(name: str) -> Path:
    """The file of what puffs answers otherwise; there is none where that is nothing."""
    return OTHERWISE / record_of(name).name


def recorded(name: str) -> Answers:
    """What the library itself answered."""
    return _read(record_of(name))


def otherwise(name: str) -> Answers:
    """What puffs answers where it does not answer as the library. `different` has the reasons."""
    path = otherwise_of(name)
    return _read(path) if path.exists() else {}


def _read(path: Path) -> Answers:
    found: Answers = json.loads(path.read_text())
    return found


_TREE: Final = ("tree", "mount")
_PATHS: Final = {
    "loopback": ("loopback.py {module} {backing} {mountpoint}", _TREE),
    "loopback use_ino": (
        "loopback.py {module} {backing} {mountpoint} use_ino fsname=loop subtype=back",
        _TREE,
    ),
    "loopback nothreads": ("loopback.py {module} {backing} {mountpoint} nothreads", _TREE),
    "loopback allow_other": (
        "loopback.py {module} {backing} {mountpoint} allow_other",
        ("users", "mount"),
    ),
    "loopback permissions": (
        "loopback.py {module} {backing} {mountpoint} allow_other default_permissions",
        ("users", "mount"),
    ),
    "loopback allow_root": ("loopback.py {module} {backing} {mountpoint} allow_root", ("users",)),
    "loopback alone": ("loopback.py {module} {backing} {mountpoint}", ("users",)),
    "memory noforget": ("memory.py {module} {mountpoint} noforget", ("remembered",)),
    "memory remember": ("memory.py {module} {mountpoint} remember=60", ("remembered",)),
    "loopback readdir_ino": (
        "loopback.py {module} {backing} {mountpoint} readdir_ino attr_timeout=60",
        ("numbered",),
    ),
    "memory": ("memory.py {module} {mountpoint}", _TREE),
    "context": ("context.py {module} {mountpoint} allow_other", ("context", "mount")),
    "nothing": ("defaults.py {module} nothing {mountpoint}", ("defaults",)),
    "listing": ("defaults.py {module} listing {mountpoint}", ("defaults", "defaults of files")),
    "stranger": ("defaults.py {module} stranger {mountpoint}", ("defaults",)),
    "answers": ("answers.py {module} {mountpoint}", ("answers",)),
    "opened": ("opened.py {module} {mountpoint}", ("opened",)),
    "devices": (
        "devices.py {module} {side} {mountpoint}",
        ("devices", "locks of a program", "cached"),
    ),
    "devices raw": (
        "devices.py {module} {side} {mountpoint} raw",
        ("devices", "locks of a program"),
    ),
    "devices omits": ("devices.py {module} {side} {mountpoint} omits", ("devices",)),
    "devices auto_cache": ("devices.py {module} {side} {mountpoint} auto_cache", ("cached",)),
    "devices kernel_cache": ("devices.py {module} {side} {mountpoint} kernel_cache", ("cached",)),
    "noting": ("noting.py {module} {backing} {side} {mountpoint}", ("noting",)),
}
_INODES: Final = {
    "hello": ("hello_trio.py {mountpoint}", ("hello", "mount")),
    "hello asyncio": ("hello_asyncio.py {mountpoint}", ("hello", "mount")),
    "passing": ("passing.py {backing} {mountpoint}", _TREE),
    "passing allow_root": ("passing.py {backing} {mountpoint} allow_root", ("users",)),
    "passing allow_other": ("passing.py {backing} {mountpoint} allow_other", ("users", "mount")),
    "tmpfs": ("tmpfs.py {module} {mountpoint}", _TREE),
    "replies": ("replies.py {mountpoint}", ("replies",)),
    "tmpfs writeback": ("tmpfs.py {module} {mountpoint} enable_writeback_cache", _TREE),
    "tmpfs acl": ("tmpfs.py {module} {mountpoint} enable_acl allow_other", ("acls", "users")),
    "tmpfs no acl": ("tmpfs.py {module} {mountpoint} allow_other", ("acls", "users")),
}
_LIVES: Final = {
    "daemon": ("daemon.py {module} {side} {mountpoint}", lives.daemons),
    "ending": ("ending.py {module} {mountpoint}", lives.endings),
    "critical": ("ending.py {module} {mountpoint}", lives.critical),
    "waiting": ("blocking.py {module} {side} {mountpoint}", lives.waits),
    "waiting nothreads": ("blocking.py {module} {side} {mountpoint} nothreads", lives.waits),
}
_ON_LIBFUSE_2: Final = ("loopback", "memory", "answers", "opened", "noting", "devices raw")
"""Servers that mfusepy runs on libfuse 2 as well; on puffs it is always as on libfuse 3."""

TWINS: Final = {
    **{f"fusepy {name}": Twin("fusepy", *rest) for name, rest in _PATHS.items()},
    **{f"mfusepy {name}": Twin("mfusepy", *rest) for name, rest in _PATHS.items()},
    **{f"mfusepy 2 {name}": Twin("mfusepy2", *_PATHS[name]) for name in _ON_LIBFUSE_2},
    **{
        f"{library} {name}": Twin(library, command, life=life)
        for library in ("fusepy", "mfusepy")
        for name, (command, life) in _LIVES.items()
    },
    "mfusepy no_rofd_flush": Twin(
        "mfusepy", "devices.py {module} {side} {mountpoint} no_rofd_flush", ("cached",)
    ),
    "mfusepy poll": Twin("mfusepy", "devices.py {module} {side} {mountpoint}", ("poll",)),
    "mfusepy poll raw": Twin("mfusepy", "devices.py {module} {side} {mountpoint} raw", ("poll",)),
    "mfusepy offsets": Twin("mfusepy", "offsets.py {module} 3000 {mountpoint}", ("offsets",)),
    **{f"pyfuse3 {name}": Twin("pyfuse3", *rest) for name, rest in _INODES.items()},
    **{
        f"{library} closing": Twin(library, "closing.py {module} {mountpoint}", life=lives.closings)
        for library in ("pyfuse3", "llfuse")
    },
    "pyfuse3 telling": Twin(
        "pyfuse3",
        "telling.py {module} {side} {mountpoint}",
        ("telling", "telling deleted"),
    ),
    "llfuse telling": Twin("llfuse", "telling.py {module} {side} {mountpoint}", ("telling",)),
    "llfuse tmpfs": Twin("llfuse", "tmpfs.py {module} {mountpoint}", _TREE),
}
