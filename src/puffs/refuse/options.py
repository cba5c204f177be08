"""libfuse's mount options, of both generations: which there are, and what becomes of each.

`OPTIONS` is all of it. An option is done, or puffs always behaves as it asks, or it is about the
inside of libfuse and makes no difference that anybody can see, or it is refused, with the reason
and a remedy. `parse` makes `Settings` of what a program gives `FUSE(...)` as keywords, and
docs/migrating.md has its table from here.
"""

import difflib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from puffs.attach.fuse.options import (
    MAX_PAYLOAD,
    MAX_THREADS,
    PAGE,
    OptionError,
    SetFlag,
    fitting_name,
    split_options,
)
from puffs.attach.fuse.syscalls import (
    MS_DIRSYNC,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_SYNCHRONOUS,
)
from puffs.refuse.modules import MODULES, stacked
from puffs.refuse.settings import Dialect, Settings

logger = logging.getLogger("puffs")

SWITCHES: Final = ("foreground", "debug", "nothreads")
"""Keywords that go by their truth, and are no option of a list."""

THREADS: Final = 10
"""How many threads serve at most, unless a program wants one only: libfuse's own limit."""

# ----------------------------------------------------------------------------- what becomes of them


@dataclass(frozen=True, slots=True)
class Sets:
    """It is done: a field of `Settings` gets `value`, or what that makes of the argument.

    A function raises ValueError with the words that follow "NAME=ARGUMENT needs".
    """

    field: str
    value: float | bool | Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class SetsMount:
    """It is done: the same for a field of `MountOptions`."""

    field: str
    value: int | bool | Callable[[str], Any]
    also: str | None = None
    """Another field that gets the same."""


@dataclass(frozen=True, slots=True)
class OfModule:
    """It is done: a module is given `value`, or else the argument, as `name`, or else as the option
    is called.
    """

    value: bool | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Always:
    """There is nothing to do: this is how it is with puffs, and `how`."""

    how: str


@dataclass(frozen=True, slots=True)
class NoDifference:
    """It is about the inside of libfuse, and nobody can tell: `why`."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It cannot be had: `why`, and what to do instead."""

    why: str
    remedy: str


Effect = SetFlag | Sets | SetsMount | OfModule | Always | NoDifference | Refused


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its name, the word for its argument (None: takes none), the generations of
    libfuse that know it ("" for the keywords of fusepy itself), what it is for, and its effect.
    """

    name: str
    argument: str | None
    known: str
    help: str
    effect: Effect

    @property
    def usage(self) -> str:
        """The option as one types it: ``ro``, ``max_read=BYTES``."""
        return self.name if self.argument is None else f"{self.name}={self.argument}"


# ---------------------------------------------------------------------------------- their arguments


def _number(text: str, needs: str, base: int = 10) -> int:
    digits = "0123456789"[:base]
    # int() would also take "1_000", " 5" and digits of other scripts.
    if not text or text.strip(digits):
        raise ValueError(needs)
    return int(text, base)


def _id(text: str) -> int:
    needs = "a number from 0 to 4294967294"
    number = _number(text, needs)
    if number >= 0xFFFFFFFF:  # stands for "as it is" in system calls
        raise ValueError(needs)
    return number


def _mask(text: str) -> int:
    return _number(text, 'octal digits: "022", or 22 without quotes, and not 0o22', base=8)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError("a number of seconds")
    return max(0.0, seconds)  # as libfuse


def _remembered(text: str) -> float:
    return math.inf if text == "-1" else float(_number(text, "a number of seconds, or -1"))


def _bytes(text: str) -> int:
    """The kernel takes no less than a page, and puffs no more than `MAX_PAYLOAD`."""
    return min(max(_number(text, "a number of bytes"), PAGE), MAX_PAYLOAD)


def _size(text: str) -> int:
    return min(_number(text, "a number of bytes"), 0xFFFFFFFF)


def _requests(text: str) -> int | None:
    """0 leaves it to the library, as in libfuse; the field in INIT has 16 bits."""
    return min(_number(text, "a number of requests"), 0xFFFF) or None


def _read_bytes(text: str) -> int | None:
    return None if _number(text, "a number of bytes") == 0 else _bytes(text)


def _write_bytes(text: str) -> int:
    return _bytes(text) // PAGE * PAGE


def _yes(text: str) -> bool:
    return _number(text, "0 or 1") != 0


def _spare_threads(text: str) -> int:
    return min(max(_number(text, "a number of threads"), 1), MAX_THREADS) - 1


def _modules(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(":") if name)
    for name in names:
        if name not in MODULES:
            raise ValueError(
                f"names of modules, with colons between: {', '.join(MODULES)}; {name!r} is none "
                "that puffs has"
            )
    return names


# ---------------------------------------------------------------------------------------- the table

_SPLICING: Final = NoDifference("how data is copied; puffs copies it once")
_THREADS: Final = NoDifference("a thread that is not needed any more ends")
_MOUNTER: Final = Refused("whoever mounts sets it, and that is puffs", "leave it out")
_LABELS: Final = Refused("puffs gives the kernel no security labels", "leave it out")
_BLOCK: Final = Refused(
    "puffs mounts file systems of type fuse, and not fuseblk, which is for those on a block device",
    "leave it out",
)
_SIGNALLED: Final = NoDifference("Python repeats a call that a signal has interrupted (PEP 475)")
_MOUNT_FUSE: Final = Refused(
    "it is for mount.fuse, which starts programs", "start the program as that user"
)
_PYTHON_HELP: Final = Refused(
    "a program in Python has a help page of its own", "see docs/migrating.md for the options"
)

OPTIONS: Final = (
    # ---- of fusepy itself
    Option("foreground", None, "", "serve in this process", Sets("foreground", True)),
    Option("nothreads", None, "", "serve on one thread", SetsMount("spare_threads", 0)),
    Option("debug", None, "2 3", "print each request; with foreground", Sets("debug", True)),
    # ---- of mounting
    Option("ro", None, "2 3", "read-only", SetFlag(MS_RDONLY)),
    Option("rw", None, "2 3", "for reading and writing (default)", SetFlag(MS_RDONLY, False)),
    Option("nosuid", None, "2 3", "ignore set-user-ID (default)", SetFlag(MS_NOSUID)),
    Option("suid", None, "2 3", "honour set-user-ID", SetFlag(MS_NOSUID, False)),
    Option("nodev", None, "2 3", "device nodes cannot be opened (default)", SetFlag(MS_NODEV)),
    Option("dev", None, "2 3", "device nodes can be opened", SetFlag(MS_NODEV, False)),
    Option("noexec", None, "2 3", "programs cannot be executed", SetFlag(MS_NOEXEC)),
    Option("exec", None, "2 3", "programs can be executed (default)", SetFlag(MS_NOEXEC, False)),
    Option("sync", None, "2 3", "every write is followed by fsync", SetFlag(MS_SYNCHRONOUS)),
    Option("async", None, "2 3", "writes are not (default)", SetFlag(MS_SYNCHRONOUS, False)),
    Option("dirsync", None, "2 3", "changes of directories are synchronous", SetFlag(MS_DIRSYNC)),
    Option("noatime", None, "2 3", "do not update access times", SetFlag(MS_NOATIME)),
    Option("atime", None, "2 3", "update access times (default)", SetFlag(MS_NOATIME, False)),
    Option("fsname", "NAME", "2 3", "source in /proc/mounts", SetsMount("fsname", fitting_name)),
    Option("subtype", "NAME", "2 3", "type: fuse.puffs.NAME", SetsMount("subtype", fitting_name)),
    Option("allow_other", None, "2 3", "other users may use it", SetsMount("allow_other", True)),
    Option("allow_root", None, "2 3", "root may use it too", Sets("allow_root", True)),
    Option(
        "default_permissions",
        None,
        "2 3",
        "the kernel checks permissions",
        SetsMount("default_permissions", True),
    ),
    Option(
        "auto_unmount",
        None,
        "2 3",
        "unmount when the program dies",
        SetsMount("auto_unmount", True),
    ),
    Option("nonempty", None, "2", "mount over what is there", Sets("nonempty", True)),
    Option("max_read", "BYTES", "2 3", "largest read", SetsMount("max_read", _read_bytes)),
    Option("blkdev", None, "2 3", "on a block device", _BLOCK),
    Option("blksize", "BYTES", "2 3", "block size of that", _BLOCK),
    Option("fd", "N", "2 3", "the connection", _MOUNTER),
    Option("rootmode", "MODE", "2 3", "type of the root", _MOUNTER),
    Option("user_id", "UID", "2 3", "who mounts", _MOUNTER),
    Option("group_id", "GID", "2 3", "the group of who mounts", _MOUNTER),
    Option(
        "user",
        "NAME",
        "2 3",
        "a note in /etc/mtab",
        NoDifference("/etc/mtab is made by the kernel now"),
    ),
    Option("context", "LABEL", "2 3", "security label", _LABELS),
    Option("fscontext", "LABEL", "2 3", "security label", _LABELS),
    Option("defcontext", "LABEL", "2 3", "security label", _LABELS),
    Option("rootcontext", "LABEL", "2 3", "security label", _LABELS),
    Option("setuid", "USER", "2 3", "become USER first", _MOUNT_FUSE),
    Option("drop_privileges", None, "3", "give up privileges after mounting", _MOUNT_FUSE),
    # ---- of attributes and names
    Option("uid", "UID", "2 3", "owner of all files", Sets("uid", _id)),
    Option("gid", "GID", "2 3", "group of all files", Sets("gid", _id)),
    Option("umask", "MASK", "2 3", "permissions that all lack (octal)", Sets("umask", _mask)),
    Option("fmask", "MASK", "3", "the same but for directories", Sets("fmask", _mask)),
    Option("dmask", "MASK", "3", "the same for directories", Sets("dmask", _mask)),
    Option("entry_timeout", "T", "2 3", "names are cached (1)", Sets("entry_timeout", _seconds)),
    Option("attr_timeout", "T", "2 3", "attributes are cached (1)", Sets("attr_timeout", _seconds)),
    Option(
        "negative_timeout",
        "T",
        "2 3",
        "absent names are cached (0)",
        Sets("negative_timeout", _seconds),
    ),
    Option("use_ino", None, "2 3", "inode numbers are the program's", Sets("use_ino", True)),
    Option(
        "readdir_ino", None, "2 3", "listings have known inode numbers", Sets("readdir_ino", True)
    ),
    Option("noforget", None, "2 3", "inode numbers stay", Sets("remember", math.inf)),
    Option(
        "remember", "T", "2 3", "they stay so long; -1: for ever", Sets("remember", _remembered)
    ),
    Option("hard_remove", None, "2 3", "remove open files at once", Sets("hard_remove", True)),
    Option(
        "nopath",
        None,
        "2 3",
        "no path for what is open",
        NoDifference("the path costs nothing, so it is always told"),
    ),
    # ---- of data
    Option("direct_io", None, "2 3", "data is not cached", Sets("direct_io", True)),
    Option("kernel_cache", None, "2 3", "data stays cached", Sets("kernel_cache", True)),
    Option("auto_cache", None, "2 3", "it stays if nothing changed", Sets("auto_cache", True)),
    Option("noauto_cache", None, "2 3", "it does not (default)", Sets("auto_cache", False)),
    Option(
        "ac_attr_timeout",
        "T",
        "2 3",
        "auto_cache believes attributes so long",
        NoDifference("attributes are asked for at each open, so that no old ones are believed"),
    ),
    Option("no_rofd_flush", None, "3", "no flush after reading", Sets("no_rofd_flush", True)),
    Option(
        "parallel_direct_write",
        "N",
        "3",
        "direct writes side by side (1)",
        Sets("parallel_direct_writes", _yes),
    ),
    Option("max_write", "BYTES", "2", "largest write", SetsMount("max_write", _write_bytes)),
    Option(
        "big_writes", None, "2", "writes of more than a page", Always("writes have up to 1 MiB")
    ),
    Option("large_read", None, "2", "reads of more than a page", Always("reads have up to 1 MiB")),
    Option("async_read", None, "2", "reads side by side", SetsMount("async_read", True)),
    Option("sync_read", None, "2", "one read after the other", SetsMount("async_read", False)),
    Option(
        "atomic_o_trunc",
        None,
        "2",
        "open empties files itself, by O_TRUNC",
        SetsMount("atomic_o_trunc", True),
    ),
    Option("max_readahead", "BYTES", "2", "read ahead at most", SetsMount("max_readahead", _size)),
    Option(
        "max_background",
        "N",
        "2",
        "requests that nobody waits for",
        SetsMount("max_background", _requests),
    ),
    Option(
        "congestion_threshold",
        "N",
        "2",
        "so many of those are many",
        SetsMount("congestion_threshold", _requests),
    ),
    Option("splice_read", None, "2", "copy requests otherwise", _SPLICING),
    Option("no_splice_read", None, "2", "or not", _SPLICING),
    Option("splice_write", None, "2", "copy answers otherwise", _SPLICING),
    Option("no_splice_write", None, "2", "or not", _SPLICING),
    Option("splice_move", None, "2", "move pages of answers", _SPLICING),
    Option("no_splice_move", None, "2", "or not", _SPLICING),
    # ---- of locks
    Option(
        "no_remote_lock",
        None,
        "2",
        "all locks are the kernel's",
        SetsMount("posix_locks", False, "flocks"),
    ),
    Option(
        "no_remote_posix_lock",
        None,
        "2",
        "those of fcntl(2) are",
        SetsMount("posix_locks", False),
    ),
    Option("no_remote_flock", None, "2", "those of flock(2) are", SetsMount("flocks", False)),
    # ---- of serving
    Option("max_threads", "N", "3", "threads at most", SetsMount("spare_threads", _spare_threads)),
    Option("max_idle_threads", "N", "3", "threads that wait", _THREADS),
    Option(
        "clone_fd",
        None,
        "3",
        "a connection for each thread",
        Always("every thread has a connection of its own"),
    ),
    Option("intr", None, "2 3", "interrupt operations by a signal", _SIGNALLED),
    Option("intr_signal", "N", "2 3", "which signal", _SIGNALLED),
    Option(
        "io_uring", None, "3", "requests come another way", NoDifference("the way is puffs' own")
    ),
    # ---- of modules
    Option("modules", "M1:M2", "2 3", "subdir, iconv", Sets("modules", _modules)),
    Option("subdir", "DIR", "2 3", "(subdir) show this directory only", OfModule()),
    Option("rellinks", None, "2 3", "(subdir) absolute links become relative", OfModule(True)),
    Option(
        "norellinks",
        None,
        "2 3",
        "(subdir) they do not (default)",
        OfModule(False, "rellinks"),
    ),
    Option("from_code", "CHARSET", "2 3", "(iconv) of names in the program", OfModule()),
    Option("to_code", "CHARSET", "2 3", "(iconv) of names outside", OfModule()),
    # ---- of programs in C
    Option("-h", None, "2 3", "print help", _PYTHON_HELP),
    Option("--help", None, "2 3", "print help", _PYTHON_HELP),
    Option("-V", None, "2 3", "print the version", _PYTHON_HELP),
    Option("--version", None, "2 3", "print the version", _PYTHON_HELP),
)
"""Every option there is, but those that begin with "x-", which are notes for other programs."""

_BY_NAME: Final = {option.name: option for option in OPTIONS}


# ------------------------------------------------------------------------------------- reading them


def parse(keywords: Mapping[str, object], dialect: Dialect) -> Settings:
    """What the keywords of `FUSE(...)` ask for; of two that contradict each other the later wins.

    They are taken as fusepy takes them: what is False is left out, what is True is an option
    without an argument, anything else is its argument. A comma in it begins another option, unless
    a backslash precedes it.

    Raises:
        OptionError: an option is unknown or refused, or its value is missing, unwanted or out of
            range; the text is one line for people.
    """
    settings = Settings(dialect)
    settings.mount.spare_threads = THREADS - 1
    for text in _words(keywords):
        _apply(settings, text)
    for name in SWITCHES:
        if keywords.get(name):
            _apply(settings, name)
    _settle(settings)
    return settings


def _words(keywords: Mapping[str, object]) -> Iterator[str]:
    for name, value in keywords.items():
        if name not in SWITCHES and value is not False:
            yield from split_options(name if value is True else f"{name}={value}")


def _apply(settings: Settings, text: str) -> None:
    name, equals, value = text.partition("=")
    if name.startswith("x-"):
        logger.info("mount option %s makes no difference: it is a note for other programs", name)
        return
    option = _BY_NAME.get(name)
    if option is None:
        near = difflib.get_close_matches(name, _BY_NAME, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise OptionError(f"unknown mount option {name!r}{hint}: docs/migrating.md lists them all")
    if isinstance(option.effect, Refused):
        raise OptionError(
            f"mount option {name!r} is refused: {option.effect.why}: {option.effect.remedy}"
        )
    if option.argument is None and equals:
        raise OptionError(f"mount option {name!r} takes no value: give {name}=True")
    if option.argument is not None and not value:
        raise OptionError(f"mount option {name!r} needs a value: {option.usage}")
    try:
        _take(settings, name, value, option.effect)
    except ValueError as error:
        raise OptionError(
            f"mount option {name!r}: {value!r} does not fit, {option.usage} needs {error}"
        ) from None


def _take(settings: Settings, name: str, value: str, effect: Effect) -> None:
    match effect:
        case SetFlag(bit, True):
            settings.mount.flags |= bit
        case SetFlag(bit, False):
            settings.mount.flags &= ~bit
        case Sets(where, chosen):
            setattr(settings, where, chosen(value) if callable(chosen) else chosen)
        case SetsMount(where, chosen, also):
            for each in filter(None, (where, also)):
                setattr(settings.mount, each, chosen(value) if callable(chosen) else chosen)
        case OfModule(chosen, where):
            settings.module_options[where or name] = value if chosen is None else chosen
        case NoDifference(why):
            logger.info("mount option %s makes no difference: %s", name, why)


def _settle(settings: Settings) -> None:
    """What options mean for each other."""
    if settings.debug:
        settings.foreground = True
    if settings.allow_root:
        if settings.mount.allow_other:
            raise OptionError("allow_other and allow_root exclude each other: choose one")
        settings.mount.allow_other = True
        # What the kernel remembers it tells anybody, and does not ask who may know.
        settings.entry_timeout = settings.attr_timeout = settings.negative_timeout = 0.0
    unused = [
        name
        for name in settings.module_options
        if not any(name in MODULES[module].options for module in settings.modules)
    ]
    if unused:
        module = next(each for each in MODULES if unused[0] in MODULES[each].options)
        raise OptionError(
            f"mount option {unused[0]!r} is for modules={module}, which is not asked for"
        )
    settings.translation = stacked(settings.modules, settings.module_options)
