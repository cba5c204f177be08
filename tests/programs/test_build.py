"""A C project, configured and built: make decides by timestamps, and what is built is run."""

import re
from pathlib import Path
from typing import Final

from tests.needs import need
from tests.programs.places import PROGRAM, also, run

pytestmark = PROGRAM

UNITS: Final = 42
HEADERS: Final = 6
"""Each unit includes one of the headers, and the main program all of them."""

CONFIGURE: Final = """
AC_INIT([sums], [1.0])
AC_CONFIG_AUX_DIR([aux])
AM_INIT_AUTOMAKE([foreign])
AM_SILENT_RULES([yes])
LT_INIT([disable-static])
AC_PROG_CC
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
"""
MAKEFILE: Final = """
lib_LTLIBRARIES = libsums.la
libsums_la_SOURCES = {sources}
include_HEADERS = {headers}
bin_PROGRAMS = sums
sums_SOURCES = main.c
sums_LDADD = libsums.la
check_PROGRAMS = works
works_SOURCES = main.c
works_LDADD = libsums.la
TESTS = works
"""


def project(top: Path) -> Path:
    """A library of many units, a program, and its test."""
    top.mkdir()
    units, headers = range(UNITS), range(HEADERS)
    for number in headers:
        mine = "".join(f"int unit{unit}(void);\n" for unit in units[number::HEADERS])
        (top / f"sums{number}.h").write_text(mine)
    for unit in units:
        text = f'#include "sums{unit % HEADERS}.h"\nint unit{unit}(void) {{ return {unit}; }}\n'
        (top / f"unit{unit}.c").write_text(text)
    includes = "".join(f'#include "sums{number}.h"\n' for number in headers)
    total = " + ".join(f"unit{unit}()" for unit in units)
    (top / "main.c").write_text(f"{includes}int main(void) {{ return {total} != {sum(units)}; }}\n")
    (top / "configure.ac").write_text(CONFIGURE)
    (top / "Makefile.am").write_text(
        MAKEFILE.format(
            sources=" ".join(f"unit{unit}.c" for unit in units),
            headers=" ".join(f"sums{number}.h" for number in headers),
        )
    )
    return top


def built(directory: Path) -> set[str]:
    """Run make; what it has compiled."""
    return set(re.findall(r"CC +(\w+)\.l?o", run("make", "-j2", cwd=directory)))


@also("mem-writeback")
def test_autotools(place: Path) -> None:
    need("cc", "gcc")
    need("make")
    need("autoreconf", "autoconf automake")
    need("libtoolize", "libtool")
    source, build = project(place / "source"), place / "build"
    run("autoreconf", "-i", cwd=source)
    build.mkdir()
    run("../source/configure", f"--prefix={place}/usr", cwd=build)
    assert built(build) == {*(f"unit{unit}" for unit in range(UNITS)), "main"}
    assert built(build) == set()
    (source / "sums3.h").touch()
    assert built(build) == {*(f"unit{unit}" for unit in range(3, UNITS, HEADERS)), "main"}
    assert built(build) == set()

    assert "# PASS:  1" in run("make", "check", cwd=build)
    run("make", "install", f"DESTDIR={place}/stage", cwd=build)
    assert (place / f"stage{place}/usr/bin/sums").exists()
    run("make", "install", cwd=build)
    run(place / "usr/bin/sums")
    assert f"{place}/usr/lib/libsums" in run("ldd", place / "usr/bin/sums")


def test_distcheck(place: Path) -> None:
    need("autoreconf", "autoconf automake")
    need("libtoolize", "libtool")
    source = project(place / "source")
    run("autoreconf", "-i", cwd=source)
    run("./configure", cwd=source)
    assert "sums-1.0.tar.gz" in run("make", "-j2", "distcheck", cwd=source, seconds=300)
