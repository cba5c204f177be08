"""The mount options: what `-o a,b=c` may hold, what each does, and what the kernel is told.

`OPTIONS` is the only list. Parsing, the kernel's option text, the help of a command line and its
completion are made from it. A command line collects the words of every ``-o`` in a list (argparse:
``action="append"``; click: ``multiple=True``), hands the list to `parse_options` and shows an
`OptionError` as it is; `help_rows` and `help_text` are for its help page.
"""

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from puffs.attach.fuse.syscalls import (
    MS_DIRSYNC,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    MS_SYNCHRONOUS,
)

TYPE_PREFIX = "fuse.puffs."
"""What the type of each of our mounts begins with, as /proc/mounts shows it."""

PAGE = 4096
MAX_PAYLOAD = 1 << 20
MAX_THREADS = 64
NAME_BYTES = 255

# Not to be shown, or not to be encoded at all: control characters, line separators, lone surrogates
# other than those that os.fsdecode makes of bytes.
_UNFIT = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udc7f\udd00-\udfff"


class OptionError(ValueError):
    """A mount option that is unknown, out of range, or has a value too many or too few.

    Its text is one line for the person who typed the option.
    """


@dataclass(slots=True)
class MountOptions:
    """What a mount was asked for.

    Attributes:
        flags: MS_* bits of mount(2).
        fsname: the source shown in /proc/mounts; None: named after the file server.
        subtype: the NAME in the type ``fuse.puffs.NAME``; None: named after the file server.
        allow_other: users other than the one who mounted may use the mount.
        default_permissions: the kernel checks permissions by mode, owner and group. None: the file
            server decides (it is on unless the class defines `access`).
        max_read: bytes of the largest READ; None: the kernel's own limit.
        max_write: bytes of the largest payload of a request, for INIT; None: the session's default.
        auto_unmount: a process of its own unmounts when the server dies. None: whoever mounts
            decides (commands: yes; `puffs.run` and `puffs.mount`: no).
        writeback: the kernel buffers writes, and writes whole pages later.
        passthrough: the kernel reads and writes files of the host itself, where an open brings one.
        threads: how many threads serve, for file servers that block.
        spare_threads: how many more serve while those are kept by operations. No word stands for
            this one, nor for those that follow `pagecache`.
        control: `puffs status`, `puffs trace` and their like find a socket of the server.
        slow: requests that take more seconds are logged; None: none is.
        namecache: the kernel may remember names, for as long as the file server says.
        pagecache: the kernel may keep data of files.
        max_readahead: bytes that the kernel may read ahead; None: as many as it likes.
        max_background: requests that nobody waits for which may be under way; None: as `init` has
            it.
        congestion_threshold: so many of those make the kernel hold back; None: three quarters.
        async_read: several reads of one open file may be under way.
        atomic_o_trunc: an open that truncates is one request, and the file server's `open` does it:
            it finds O_TRUNC in the flags.
        posix_locks: locks of fcntl(2) are the file server's, if it has `advlock`.
        flocks: the same for locks of flock(2).
    """

    flags: int = MS_NOSUID | MS_NODEV
    fsname: str | None = None
    subtype: str | None = None
    allow_other: bool = False
    default_permissions: bool | None = None
    max_read: int | None = None
    max_write: int | None = None
    auto_unmount: bool | None = None
    writeback: bool = False
    passthrough: bool = False
    threads: int = 1
    spare_threads: int = 0
    control: bool = True
    slow: float | None = None
    namecache: bool = True
    pagecache: bool = True
    max_readahead: int | None = None
    max_background: int | None = None
    congestion_threshold: int | None = None
    async_read: bool = True
    atomic_o_trunc: bool = False
    posix_locks: bool = True
    flocks: bool = True


@dataclass(frozen=True, slots=True)
class SetFlag:
    """The effect of an option that switches one MS_* bit on or off."""

    bit: int
    on: bool = True


@dataclass(frozen=True, slots=True)
class SetField:
    """The effect of an option that sets a field of `MountOptions`.

    `value` is what the field is set to, or what makes it of the option's argument: a function that
    raises ValueError with the words that follow "NAME=ARGUMENT needs". With `to_kernel`, the kernel
    is given the option under the same name.
    """

    field: str
    value: bool | Callable[[str], float | str]
    to_kernel: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """One mount option: its name, the word for its argument (None: takes none), help, effect."""

    name: str
    argument: str | None
    help: str
    effect: SetFlag | SetField

    @property
    def usage(self) -> str:
        """The option as one types it: ``ro``, ``max_read=BYTES``."""
        return self.name if self.argument is None else f"{self.name}={self.argument}"


def _size(multiple: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() would also take "1_000", " 5" and digits of other scripts.
        size = int(text) if text.isascii() and text.isdigit() else -1
        if not PAGE <= size <= MAX_PAYLOAD or size % multiple:
            a_number = "a number" if multiple == 1 else f"a multiple of {multiple}"
            raise ValueError(f"{a_number} from {PAGE} to {MAX_PAYLOAD}")
        return size

    return parse


def _threads(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= MAX_THREADS:
        raise ValueError(f"a number from 1 to {MAX_THREADS}")
    return number


def _seconds(text: str) -> float:
    # float() would also take "nan", "1_0", " 5"...
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise ValueError("a number of seconds")
    return float(text)


def fitting_name(text: str) -> str:
    """A name that /proc/mounts can show. Raises `ValueError` with what it needs."""
    if len(os.fsencode(text)) > NAME_BYTES:
        raise ValueError(f"at most {NAME_BYTES} bytes")
    return text


OPTIONS = (
    Option("ro", None, "mount read-only", SetFlag(MS_RDONLY)),
    Option("rw", None, "mount for reading and writing (the default)", SetFlag(MS_RDONLY, False)),
    Option("nosuid", None, "ignore set-user-ID and set-group-ID (the default)", SetFlag(MS_NOSUID)),
    Option("suid", None, "honour set-user-ID and set-group-ID", SetFlag(MS_NOSUID, False)),
    Option("nodev", None, "device nodes cannot be opened (the default)", SetFlag(MS_NODEV)),
    Option("dev", None, "device nodes can be opened", SetFlag(MS_NODEV, False)),
    Option("noexec", None, "programs cannot be executed", SetFlag(MS_NOEXEC)),
    Option("exec", None, "programs can be executed (the default)", SetFlag(MS_NOEXEC, False)),
    Option("noatime", None, "do not update access times", SetFlag(MS_NOATIME)),
    Option("sync", None, "every write is followed by fsync", SetFlag(MS_SYNCHRONOUS)),
    Option("dirsync", None, "changes of directories are synchronous", SetFlag(MS_DIRSYNC)),
    Option("remount", None, "refused: unmount, and mount again", SetFlag(MS_REMOUNT)),
    Option("allow_other", None, "other users may use it too", SetField("allow_other", True, True)),
    Option(
        "default_permissions",
        None,
        "the kernel checks permissions (the default, unless the file server defines access)",
        SetField("default_permissions", True, True),
    ),
    Option(
        "no_default_permissions",
        None,
        "the kernel does not check permissions",
        SetField("default_permissions", False),
    ),
    Option(
        "max_read",
        "BYTES",
        f"largest read request ({PAGE} to {MAX_PAYLOAD})",
        SetField("max_read", _size(1), True),
    ),
    Option(
        "max_write",
        "BYTES",
        f"largest request payload ({PAGE} to {MAX_PAYLOAD}, a multiple of {PAGE})",
        SetField("max_write", _size(PAGE)),
    ),
    Option(
        "writeback",
        None,
        "the kernel buffers writes; only where nobody else changes the files",
        SetField("writeback", True),
    ),
    Option(
        "passthrough",
        None,
        "the kernel reads and writes the host's own files, past the file server; for root",
        SetField("passthrough", True),
    ),
    Option(
        "threads",
        "N",
        f"threads that serve, for file servers that block (1 to {MAX_THREADS})",
        SetField("threads", _threads),
    ),
    Option(
        "auto_unmount",
        None,
        "unmount when the server dies (the default of commands)",
        SetField("auto_unmount", True),
    ),
    Option(
        "noauto_unmount",
        None,
        "leave the mount when the server dies: its users get errors",
        SetField("auto_unmount", False),
    ),
    Option(
        "slow",
        "SECONDS",
        "log requests that take longer; this watches every request",
        SetField("slow", _seconds),
    ),
    Option("control", None, "puffs status, trace... work (the default)", SetField("control", True)),
    Option("nocontrol", None, "no socket for puffs status, trace...", SetField("control", False)),
    Option("namecache", None, "names may be cached (the default)", SetField("namecache", True)),
    Option("nonamecache", None, "each walk asks the file server", SetField("namecache", False)),
    Option("pagecache", None, "data may be cached (the default)", SetField("pagecache", True)),
    Option(
        "nopagecache",
        None,
        "each read and write asks the file server (direct_io of other programs)",
        SetField("pagecache", False),
    ),
    Option("fsname", "NAME", "source shown in /proc/mounts", SetField("fsname", fitting_name)),
    Option("subtype", "NAME", f"type shown: {TYPE_PREFIX}NAME", SetField("subtype", fitting_name)),
)
"""Every mount option there is."""

_BY_NAME = {option.name: option for option in OPTIONS}


def help_rows() -> list[tuple[str, str]]:
    """Return (usage, help) of each option, for click's ``write_dl`` or a table."""
    return [(option.usage, option.help) for option in OPTIONS]


def help_text() -> str:
    """Return the options as aligned lines, for the epilog of an argparse parser."""
    width = max(len(option.usage) for option in OPTIONS)
    return "\n".join(f"  {usage:{width}}  {text}" for usage, text in help_rows())


def is_option(name: str) -> bool:
    """Whether there is a mount option of that name."""
    return name in _BY_NAME


def parse_options(
    words: Iterable[str], ignore: Callable[[str], bool] = lambda name: False
) -> MountOptions:
    r"""Return what the options ask for; of two that contradict each other the later one wins.

    Args:
        words: what followed each ``-o``: lists separated by commas. A backslash takes away the
            meaning of a comma or backslash after it: ``fsname=a\,b``.
        ignore: whether an option of that name is to be passed over.

    Raises:
        OptionError: an option is unknown, or its value is missing, unwanted or out of range.
    """
    options = MountOptions()
    for word in words:
        for text in split_options(word):
            if not ignore(text.partition("=")[0]):
                _apply(options, text)
    return options


def split_options(word: str) -> list[str]:
    """Split at commas that no backslash protects, leaving out what is empty."""
    pieces = re.findall(r"(?:\\[,\\]|[^,])+", word, re.DOTALL)
    return [re.sub(r"\\([,\\])", r"\1", piece) for piece in pieces]


def _apply(options: MountOptions, text: str) -> None:
    name, equals, value = text.partition("=")
    option = _BY_NAME.get(name)
    if option is None:
        near = difflib.get_close_matches(name, _BY_NAME, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise OptionError(f"unknown mount option {name!r}{hint}: --help lists them all")
    if option.argument is None and equals:
        raise OptionError(f"mount option {name!r} takes no value: write it as -o {name}")
    if option.argument is not None and not value:
        raise OptionError(f"mount option {name!r} needs a value: -o {option.usage}")
    match option.effect:
        case SetFlag(bit, True):
            options.flags |= bit
        case SetFlag(bit, False):
            options.flags &= ~bit
        case SetField(field, chosen) if isinstance(chosen, bool):
            setattr(options, field, chosen)
        case SetField(field, parse) if callable(parse):
            try:
                setattr(options, field, parse(value))
            except ValueError as error:
                raise OptionError(
                    f"mount option {name!r}: {value!r} does not fit, {option.usage} needs {error}"
                ) from None


def kernel_data(options: MountOptions, fd: int, rootmode: int, uid: int, gid: int) -> str:
    """Return the option text of mount(2) for type fuse (mount.fuse(8), fuse(4)).

    It holds numbers and plain words only. The kernel splits it at every comma and knows no escape,
    so the names travel elsewhere: see `source_name` and `type_name`.

    Args:
        options: an undecided `default_permissions` counts as on, which is the safe side.
        fd: the open /dev/fuse.
        rootmode: mode of the root; only its type (S_IFMT) is used.
        uid: user who may use the mount without allow_other.
        gid: group of that user.
    """
    words = [
        f"fd={fd}",
        f"rootmode={stat.S_IFMT(rootmode):o}",
        f"user_id={uid}",
        f"group_id={gid}",
    ]
    return ",".join(words + _for_kernel(options))


def fusermount_data(options: MountOptions, source: str, fstype: str) -> str:
    """Return the text of fusermount3's option ``-o`` for the same mount (fusermount3(1)).

    It takes the flags as words too, and the names, where a backslash protects a comma.

    Args:
        source: as `source_name` gives it.
        fstype: as `type_name` gives it.
    """
    words = [
        option.name
        for option in OPTIONS
        if isinstance(option.effect, SetFlag)
        and option.effect.on
        and options.flags & option.effect.bit
    ]
    names = {"fsname": source, "subtype": fstype.removeprefix("fuse.")}
    words += [f"{name}={_escaped(text)}" for name, text in names.items()]
    return ",".join(words + _for_kernel(options))


def _escaped(text: str) -> str:
    return re.sub(r"([,\\])", r"\\\1", text)


def _for_kernel(options: MountOptions) -> list[str]:
    """The words that the kernel knows by the same name."""
    options = replace(options, default_permissions=options.default_permissions is not False)
    words = []
    for option in OPTIONS:
        if isinstance(option.effect, SetField) and option.effect.to_kernel:
            value = getattr(options, option.effect.field)
            if value is True:
                words.append(option.name)
            elif value not in (None, False):
                words.append(f"{option.name}={value}")
    return words


def source_name(text: str) -> str:
    """Return `text` fit to be the source of a mount: control characters become "?", never empty.

    The source is an argument of its own in mount(2), and the kernel escapes blanks and backslashes
    where it shows it, so everything else may stay.
    """
    return _shorten(re.sub(f"[{_UNFIT}]", "?", text)) or "puffs"


def type_name(subtype: str) -> str:
    """Return the type of a mount, ``fuse.puffs.NAME``, for NAME or ``puffs.NAME``.

    Characters that part fields where types are listed (blanks, commas, backslashes, control
    characters) become "_".
    """
    name = subtype.removeprefix(TYPE_PREFIX.removeprefix("fuse."))
    return TYPE_PREFIX + _shorten(re.sub(rf"[{_UNFIT}\s,\\]", "_", name))


def _shorten(name: str) -> str:
    """Cut `name` to NAME_BYTES bytes, never within a character."""
    name = name[:NAME_BYTES]
    while len(os.fsencode(name)) > NAME_BYTES:
        name = name[:-1]
    return name
