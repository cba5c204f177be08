"""`mount.puffs`: what mount(8) calls for the type puffs, by hand and from fstab(5).

mount -t puffs SPEC DIR -o OPTIONS
mount.puffs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t puffs[.NAME]]
"""

import argparse
import sys
from typing import Final, NoReturn

from puffs.attach.fuse.options import OptionError, is_option, parse_options
from puffs.attach.main import mount_command
from puffs.cli.spec import SpecError, parse_spec
from puffs.streams import open_streams

USAGE: Final = 1
FAILED: Final = 32
"""Exit statuses, as mount(8) gives them."""

IGNORED: Final = frozenset(
    (
        # For mount(8) and the one who calls it at boot
        *("auto", "noauto", "nofail", "_netdev", "comment", "helper", "uhelper", "defaults"),
        *("user", "users", "owner", "group", "nouser", "nousers", "noowner", "nogroup"),
        # What is so anyway
        *("async", "atime", "relatime", "diratime", "nostrictatime", "nolazytime"),
        *("noiversion", "nomand", "loud"),
    )
)
"""Options that mount(8) passes on, or that ask for nothing."""

PREFIXES: Final = ("x-", "X-")
"""Comments, and options for other programs (mount(8))."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main() -> NoReturn:
    """Run the command line of this program and end it."""
    open_streams()
    parser = _Parser(prog="mount.puffs", description="Mount the file system SPEC on DIR.")
    parser.add_argument("spec", metavar="SPEC", help="as `puffs --help` explains it")
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("-o", dest="options", action="append", default=[], help="mount options")
    parser.add_argument("-t", dest="fstype", default="puffs", help="puffs, or puffs.NAME to show")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    parser.add_argument("-f", dest="fake", action="store_true", help="do all but mount")
    parser.add_argument("-n", action="store_true", help="ignored: there is no mtab any more")
    parser.add_argument("-v", action="store_true", help="ignored: mount(8) says what it does")
    parser.add_argument("-N", dest="namespace", help="refused: use nsenter(1)")
    args = parser.parse_args()
    if args.namespace:
        parser.error(f"-N {args.namespace}: run nsenter --mount={args.namespace} mount ...")

    def ignore(name: str) -> bool:
        known = name in IGNORED or name.startswith(PREFIXES)
        return known or (args.sloppy and not is_option(name))

    try:
        wanted = parse_options(args.options, ignore=ignore)
        factory = parse_spec(args.spec).factory
    except (OptionError, SpecError) as exc:
        parser.exit(USAGE, f"{parser.prog}: {exc}\n")
    wanted.subtype = wanted.subtype or args.fstype.partition(".")[2] or None
    if args.fake:
        sys.exit(0)
    failed = mount_command(parser.prog, factory, args.directory, wanted, foreground=False)
    sys.exit(FAILED if failed else 0)


if __name__ == "__main__":
    main()
