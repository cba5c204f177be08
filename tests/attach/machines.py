"""A machine that is as a test wants it: a tree of files, and system calls that are refused."""

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from puffs.attach.fuse.abi import FUSE_INIT_EXT, IN_HEADER, INIT_IN, Opcode
from puffs.attach.fuse.machine import Machine

NO_CAPS, ALL_CAPS = "0" * 16, "000001ffffffffff"

DEFAULT_FILES: Final = {
    "/dev/fuse": "",
    "/etc/fuse.conf": "# user_allow_other\n",
    "/proc/filesystems": "nodev\tproc\n\text4\nnodev\tfuse\n",
    "/proc/self/uid_map": "         0          0 4294967295",
    "/proc/self/mountinfo": "1 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
    "/proc/sys/user/max_user_namespaces": "10000",
    "/proc/sys/fs/fuse/max_pages_limit": "256",
    "/proc/sys/fs/fuse/default_request_timeout": "0",
    "/proc/sys/fs/fuse/max_request_timeout": "0",
    "/sys/module/fuse/parameters/enable_uring": "Y",
    "/sys/module/fuse/parameters/max_user_bgreq": "7000",
    "/sys/module/fuse/parameters/max_user_congthresh": "7000",
}


def status(
    *, effective: str = NO_CAPS, bounding: str = ALL_CAPS, no_new_privs: int = 0, seccomp: int = 0
) -> str:
    """What /proc/self/status says of a process."""
    return (
        f"Name:\tpython3\nCapEff:\t{effective}\nCapBnd:\t{bounding}\n"
        f"NoNewPrivs:\t{no_new_privs}\nSeccomp:\t{seccomp}\n"
    )


class FakeMachine(Machine):
    """By default that of an ordinary user, with fusermount3 and everything as it should be."""

    def __init__(
        self,
        root: Path,
        *,
        user: int = 1000,
        files: Mapping[str, str | None] | None = None,
        refuse: Mapping[str, int] | None = None,
        proc: str = "",
        helper: str | None = "exit 1",
        helper_mode: int = 0o4755,
        flags: int = 0,
        flags2: int = 0,
        minor: int = 45,
    ) -> None:
        """`files` replaces files (None: not there), `refuse` names system calls and their errno,
        `proc` is /proc/self/status, `helper` is what fusermount3 does, in sh, and `flags` those of
        the mount that everything lies on; `flags2` and `minor` are what INIT offers.
        """
        self.root = root
        self.user = user
        self.flags = flags
        self.refuse = dict(refuse or {})
        self.written: dict[str, str] = {}
        self._init = init(flags2, minor)
        for path, text in {
            **DEFAULT_FILES,
            "/proc/self/status": proc or status(effective=ALL_CAPS if user == 0 else NO_CAPS),
            **(files or {}),
        }.items():
            if text is not None:
                self.put(path, text)
        if "/dev/fuse" not in (files or {}):
            os.chmod(root / "dev/fuse", 0o666)
        if helper is not None:
            self.put("/usr/bin/fusermount3", f"#!/bin/sh\n{helper}\n")
            os.chmod(root / "usr/bin/fusermount3", helper_mode)

    def _place(self, path: str) -> Path:
        """Where a file of this machine really is."""
        return Path(path) if path.startswith(str(self.root)) else self.root / path.lstrip("/")

    def put(self, path: str, text: str) -> None:
        """Make a file."""
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def _refused(self, call: str) -> None:
        if code := self.refuse.get(call):
            raise OSError(code, os.strerror(code))

    def uid(self) -> int:
        return self.user

    def gid(self) -> int:
        return self.user

    def read(self, path: str) -> str | None:
        if path in self.written:
            return self.written[path]
        return super().read(str(self._place(path)))

    def write(self, path: str, text: str) -> None:
        self._refused("write")
        self.written[path] = text  # and not into the tree: a child's /proc/self is its own

    def stat(self, path: str) -> os.stat_result:
        found = list(os.stat(self._place(path)))
        found[stat.ST_UID] = 0
        return os.stat_result(found)

    def mount_flags(self, path: str) -> int:
        return self.flags

    def which(self, *names: str) -> str | None:
        places = [self.root / "usr/bin" / name for name in names]
        found = next((place for place in places if place.exists()), None)
        return None if found is None else str(found)

    def open(self, path: str) -> int:
        self._refused("open")
        if not self._place(path).exists():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        reader, writer = os.pipe()
        os.write(writer, self._init)
        os.close(writer)
        return reader

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str) -> None:
        self._refused("mount" if fstype else "propagation")

    def umount2(self, target: str, flags: int) -> None:
        self._refused("umount2")

    def unshare(self, flags: int) -> None:
        self._refused("unshare")


def init(flags2: int, minor: int) -> bytes:
    """The kernel's INIT."""
    body = INIT_IN.pack(
        major=7, minor=minor, max_readahead=1 << 17, flags=FUSE_INIT_EXT, flags2=flags2
    )
    header = IN_HEADER.pack(len=IN_HEADER.size + len(body), opcode=Opcode.INIT, unique=2)
    return header + body
