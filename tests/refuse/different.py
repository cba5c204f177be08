"""What callers see otherwise on puffs than on the libraries, and why: the whole list."""

import fnmatch
from typing import Final, NamedTuple


class Different(NamedTuple):
    """Answers of puffs that are not those of the library; places are patterns as in fnmatch.

    `since` is the Linux from which on it is so. What puffs answers is in `otherwise/`.
    """

    twins: str
    cases: str
    labels: str
    reason: str
    since: tuple[int, int] = (0, 0)


_TIMES = (
    "one time that is set alone is not told by libfuse 2, and told by libfuse 3 as numbers that "
    "are no times: programs get two times here, as they expect"
)
_NUMBERLESS = "an OSError without a number: fusepy itself stumbles over it, and the errno is chance"
_BYTES = "whatever holds bytes may be returned"
_NEVER = "what no file server may answer is EPROTO, and told to the program's author in the log"
_UTF8 = "fusepy refuses names that are not UTF-8; here they come as mfusepy has them"
_FALLOCATE = "fusepy has no fallocate, and here what a program defines is called"
_ENDING = (
    "libfuse 3 has a status for signals, and mfusepy makes an exception of it: an end asked for"
)
_INIT = "init may fail, and ends the mount then: the libraries lose the exception and go on"
_CRITICAL = "fusepy fails to raise what was to end it, and goes on"

_DOTS = "the dots are listed where the library leaves them out"
_LINKED = "an open file that another name leads to is not hidden, and known by that name"
_STATVFS = "a file system that does not say how large it is can be asked all the same"
_MAPPED = "puffs lets the kernel map files that are read directly"
_ATOMIC = "libfuse 3 hands O_TRUNC on to open; here truncate is asked, as by libfuse 2"
_AS_ON_3 = "libfuse 2 asks otherwise; for mfusepy puffs asks as libfuse 3 does"
_HEARD = "what init writes is still heard where the program was started"
_EIO = "the caller gets EIO at once, and does not wait for the end of the mount"
_INTERRUPTED = "it ends the mount at once, and the caller gets what is left without"
_GETLK = "libfuse answers F_GETLK from what it has noted itself; here the program is asked"
_HANDLE = "a file that is truncated while it is open comes with its handle"

DIFFERENT: Final = (
    Different("mfusepy 2 devices raw", "devices: controls", "of a directory*", _AS_ON_3),
    Different("*fusepy* noting", "noting: what_is_asked", "unlink while open", _LINKED),
    Different("mfusepy noting", "noting: what_is_asked", "change while open", _HANDLE),
    Different("pyfuse3 hello*", "hello: hello", "statvfs", _STATVFS),
    Different("pyfuse3 replies", "replies: replies", "default of statfs", _STATVFS),
    *(
        Different("llfuse *", f"tree: {case}", label, _DOTS)
        for case, label in (
            ("entries", "*"),
            ("many", "in small pieces"),
            ("changing", "before"),
            ("changing", "rewound"),
        )
    ),
    Different("*", "mount: mount_table", "mount", "mounts of puffs are known by their type"),
    Different(
        "*", "tree: stat_the_root", "number", "inodes without numbers are numbered otherwise"
    ),
    Different("*fusepy *", "tree: times_now_and_not", "*", _TIMES),
    Different("mfusepy *", "tree: times", "none: is", _TIMES),
    Different("*memory", "tree: times", "before 1970: is", "libraries round it towards 1970"),
    Different("fusepy *", "tree: fallocates", "*", _FALLOCATE),
    Different("fusepy devices*", "devices: allocates", "*", _FALLOCATE),
    Different("*fusepy* devices*", "devices: times_given", "*", _TIMES),
    Different("mfusepy devices*", "devices: without_open", "emptied", _ATOMIC),
    Different("mfusepy noting", "noting: what_is_asked", "replace", _ATOMIC),
    Different("mfusepy memory", "tree: opens", "truncated", _ATOMIC),
    Different("pyfuse3 tmpfs", "tree: opens", "truncated", _ATOMIC),
    *(Different("*fusepy daemon", "life", label, _HEARD) for label in ("unmounted", "terminated")),
    *(
        Different("pyfuse3 closing", "life", label, _EIO)
        for label in ("an exception", "SystemExit")
    ),
    Different("llfuse closing", "life", "KeyboardInterrupt", _INTERRUPTED),
    Different("*fusepy devices", "locks of a program: records", "who", _GETLK),
    Different("*fusepy *", "tree: entries", "kinds", "the dots are directories"),
    Different("*fusepy *", "tree: entries", "numbers", "and have the numbers of directories"),
    Different("*fusepy *", "tree: numbers", "listed", "names are listed with their files' numbers"),
    Different(
        "*fusepy *", "tree: hard_links", "same", "two names that a link(2) made are one file"
    ),
    Different("fusepy *", "tree: names_that_are_not_utf8", "*", _UTF8),
    Different(
        "mfusepy memory",
        "tree: names_that_are_too_long",
        "longer than any",
        "names have 1024 bytes at most, which every Linux takes",
    ),
    Different("*", "tree: file_system", "is", "f_bsize is what reads and writes are best made in"),
    Different("*", "defaults: what_is_not_there", "statvfs", "f_bsize, as above"),
    Different("mfusepy *", "tree: renames_with_flags", "*", "flags that no program is told of"),
    Different("fusepy *", "answers: errors", "*: raise OSError", _NUMBERLESS),
    Different("fusepy *", "answers: errors", "*: raise FileNotFoundError", _NUMBERLESS),
    Different("fusepy *", "answers: errors", "*: raise PermissionError", _NUMBERLESS),
    Different("fusepy *", "answers: errors", "*: raise TimeoutError", _NUMBERLESS),
    Different("*fusepy *", "answers: reads", "bytearray", _BYTES),
    Different("*fusepy *", "answers: reads", "memoryview", _BYTES),
    Different("*fusepy *", "answers: writes", "long", _NEVER),
    Different("*fusepy *", "answers: links", "long", _NEVER),
    Different("*fusepy *", "answers: extended_attributes", "user.text", _NEVER),
    Different("*", "opened: open_files", "mapped", _MAPPED, (6, 6)),
    Different("mfusepy offsets", "offsets: piece_by_piece", "positions", "the dots have their own"),
    Different("mfusepy ending", "life", "SIG*", _ENDING),
    Different("*fusepy ending", "life", "init fails", _INIT),
    Different("fusepy critical", "life", "*", _CRITICAL),
)


def row_for(name: str, case: str, label: str) -> Different | None:
    """Why an answer may be another one on puffs."""
    for row in DIFFERENT:
        patterns = ((name, row.twins), (case, row.cases), (label, row.labels))
        if all(fnmatch.fnmatchcase(*pair) for pair in patterns):
            return row
    return None
