"""The file system as a whole."""

from puffs.check.registry import battery
from puffs.check.target import Target

check = battery("whole")


@check("statvfs", "statvfs(3): sizes that can be; free is no more than all", needs="statvfs")
def _(t: Target) -> None:
    st = t.statvfs()
    for what, size in (("f_bsize", st.f_bsize), ("f_frsize", st.f_frsize)):
        assert size > 0, f"{what} is {size}"
        assert size & (size - 1) == 0, f"{what} is {size}, which is no power of two"
    assert st.f_bfree <= st.f_blocks, f"{st.f_bfree} of {st.f_blocks} blocks are free"
    assert st.f_bavail <= st.f_bfree, f"{st.f_bavail} blocks for users, {st.f_bfree} are free"
    if st.f_files:
        assert st.f_ffree <= st.f_files, f"{st.f_ffree} of {st.f_files} files are free"
    assert 14 <= st.f_namemax <= 255, f"f_namemax is {st.f_namemax}"
