"""What the doors and `puffs doctor` ask the system: files, programs, system calls.

One small object, so that a test can put another machine in its place: one without a device, with a
refused system call, with a sysctl switched off.
"""

import os
import re
import shutil
from typing import Final

from puffs.attach.fuse import syscalls

CAP_SYS_ADMIN: Final = 21
"""capabilities(7)."""

_SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
"""Where programs are looked for after PATH, which cron and services may have cut short."""


class Machine:
    """This machine. The methods up to `umount2` touch the system; the others only read by them."""

    def uid(self) -> int:
        """The effective user id of this process."""
        return os.geteuid()

    def gid(self) -> int:
        """The effective group id of this process."""
        return os.getegid()

    def read(self, path: str) -> str | None:
        """The text of a small file, stripped; None when it is not there or may not be read."""
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return None

    def write(self, path: str, text: str) -> None:
        """Write a file of /proc, in one system call."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def stat(self, path: str) -> os.stat_result:
        """stat(2)."""
        return os.stat(path)

    def mount_flags(self, path: str) -> int:
        """The flags (ST_NOSUID...) of the mount that `path` lies on: statvfs(3)."""
        return os.statvfs(path).f_flag

    def which(self, *names: str) -> str | None:
        """The first program of these names that can be executed."""
        for path in (None, _SYSTEM_PATH):
            for name in names:
                if found := shutil.which(name, path=path):
                    return found
        return None

    def open(self, path: str) -> int:
        """Open a device for reading and writing: open(2)."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str) -> None:
        """mount(2)."""
        syscalls.mount(source, target, fstype, flags, data)

    def umount2(self, target: str, flags: int) -> None:
        """umount2(2)."""
        syscalls.umount2(target, flags)

    def unshare(self, flags: int) -> None:
        """unshare(2)."""
        syscalls.unshare(flags)

    def status(self, key: str) -> str:
        """A line of /proc/self/status (proc_pid_status(5)); empty when the kernel has none."""
        found = re.search(rf"^{key}:\s*(.*)$", self.read("/proc/self/status") or "", re.MULTILINE)
        return found[1] if found else ""

    def may(self, capability: int, among: str = "CapEff") -> bool:
        """Whether a capability is in a set of this process: ``CapEff``, ``CapBnd``..."""
        return bool(int(self.status(among) or "0", 16) >> capability & 1)

    def number(self, path: str) -> int | None:
        """The number that a file of /proc or /sys holds."""
        text = self.read(path)
        return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None

    def filtered(self) -> bool:
        """Whether a seccomp filter judges the system calls of this process (seccomp(2))."""
        return self.status("Seccomp") == "2"

    def apparmor_profile(self) -> str | None:
        """The AppArmor profile that confines this process; None when none does."""
        for path in ("/proc/self/attr/apparmor/current", "/proc/self/attr/current"):
            text = self.read(path)
            if text and text.rstrip("\0").endswith("(enforce)"):
                return text.rpartition(" (")[0]
        return None

    def in_user_namespace(self) -> bool:
        """Whether this process is in another user namespace than the first one
        (user_namespaces(7)).
        """
        ids = (self.read("/proc/self/uid_map") or "0 0 4294967295").split()
        return ids != ["0", "0", "4294967295"]


HERE: Final = Machine()
"""This machine."""
