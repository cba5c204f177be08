"""Mount options: what may be typed, what it becomes, what the kernel is told."""

import argparse
import os
import stat

import click
import click.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puffs.attach.fuse.options import (
    OPTIONS,
    MountOptions,
    OptionError,
    help_rows,
    help_text,
    kernel_data,
    parse_options,
    source_name,
    type_name,
)

# As <sys/mount.h> and mount(2) have them.
RDONLY, NOSUID, NODEV, NOEXEC, SYNCHRONOUS, REMOUNT = 1, 2, 4, 8, 16, 32
DIRSYNC, NOATIME = 128, 1024
SAFE = NOSUID | NODEV


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], MountOptions(SAFE)),
        ([""], MountOptions(SAFE)),
        ([",,ro,,"], MountOptions(SAFE | RDONLY)),
        (["ro", "rw"], MountOptions(SAFE)),
        (["rw,ro"], MountOptions(SAFE | RDONLY)),
        (["suid"], MountOptions(NODEV)),
        (["dev"], MountOptions(NOSUID)),
        (["suid,dev,nosuid,nodev"], MountOptions(SAFE)),
        (["noexec"], MountOptions(SAFE | NOEXEC)),
        (["noexec", "exec"], MountOptions(SAFE)),
        (["noatime,sync,dirsync"], MountOptions(SAFE | NOATIME | SYNCHRONOUS | DIRSYNC)),
        (["allow_other"], MountOptions(allow_other=True)),
        (["default_permissions"], MountOptions(default_permissions=True)),
        (["no_default_permissions"], MountOptions(default_permissions=False)),
        (
            ["default_permissions,no_default_permissions,default_permissions"],
            MountOptions(default_permissions=True),
        ),
        (["max_read=4096"], MountOptions(max_read=4096)),
        (["max_read=65537"], MountOptions(max_read=65537)),
        (["max_write=1048576,max_read=1048576"], MountOptions(max_read=1 << 20, max_write=1 << 20)),
        (["fsname=box", "subtype=zip"], MountOptions(fsname="box", subtype="zip")),
        (["fsname=one", "fsname=two"], MountOptions(fsname="two")),
        ([r"fsname=a\,b,ro"], MountOptions(SAFE | RDONLY, fsname="a,b")),
        ([r"fsname=a\\,ro"], MountOptions(SAFE | RDONLY, fsname="a\\")),
        ([r"fsname=C:\dir"], MountOptions(fsname=r"C:\dir")),
        (["fsname=key=value"], MountOptions(fsname="key=value")),
        (["remount,ro"], MountOptions(SAFE | RDONLY | REMOUNT)),
        (["nonamecache"], MountOptions(namecache=False)),
        (["nopagecache,nonamecache,pagecache"], MountOptions(namecache=False)),
    ],
)
def test_what_is_typed_is_what_is_asked_for(words: list[str], expected: MountOptions) -> None:
    assert parse_options(words) == expected


@given(st.text(min_size=1, max_size=60, alphabet=st.characters(exclude_categories=["Cs"])))
def test_an_escaped_name_arrives_whole(name: str) -> None:
    escaped = name.replace("\\", "\\\\").replace(",", "\\,")
    assert parse_options([f"ro,fsname={escaped},noexec"]) == MountOptions(
        SAFE | RDONLY | NOEXEC, fsname=name
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["allow_othr"], ["'allow_othr'", "'allow_other'", "--help"]),
        (["maxread=8192"], ["'maxread'", "'max_read'", "--help"]),
        (["zzz"], ["'zzz'", "--help"]),
        (["password=hunter2"], ["'password'", "--help"]),
        (["ro, rw"], ["' rw'", "'rw'"]),
        (["ro=1"], ["'ro'", "takes no value", "-o ro"]),
        (["max_read"], ["'max_read'", "needs a value", "max_read=BYTES"]),
        (["fsname="], ["'fsname'", "needs a value", "fsname=NAME"]),
        (["max_read=4095"], ["'4095'", "a number from 4096 to 1048576"]),
        (["max_read=1048577"], ["'1048577'", "from 4096 to 1048576"]),
        (["max_read=-4096"], ["'-4096'", "a number from"]),
        (["max_read=8_192"], ["'8_192'", "a number from"]),
        (["max_read=\u0668\u0661\u0669\u0662"], ["max_read", "a number from"]),
        (["max_read=128K"], ["'128K'", "a number from"]),
        (["max_write=5000"], ["'5000'", "a multiple of 4096 from 4096 to 1048576"]),
        (["max_write=0"], ["'0'", "a multiple of 4096"]),
        (["subtype=" + "x" * 256], ["subtype=NAME", "at most 255 bytes"]),
        (["ro\nrw"], [r"'ro\nrw'"]),
    ],
)
def test_a_mistake_is_named_in_one_line_with_the_remedy(words: list[str], says: list[str]) -> None:
    with pytest.raises(OptionError) as caught:
        parse_options(words)
    message = str(caught.value)
    for part in says:
        assert part in message
    assert message.isprintable()
    assert "hunter2" not in message


def test_what_is_far_from_every_option_gets_no_guess() -> None:
    with pytest.raises(OptionError) as caught:
        parse_options(["zzz"])
    assert "did you mean" not in str(caught.value)


def test_help_lists_each_option_as_it_can_be_typed() -> None:
    samples = {"BYTES": "8192", "NAME": "x", "N": "2", "SECONDS": "0.5"}
    for (usage, text), line in zip(help_rows(), help_text().splitlines(), strict=True):
        name, _, argument = usage.partition("=")
        parse_options([f"{name}={samples[argument]}" if argument else name])
        assert line.split(maxsplit=1) == [usage, text]
    assert {option.name for option in OPTIONS} == {
        usage.partition("=")[0] for usage, _ in help_rows()
    }


WORDS = ["-o", "ro,fsname=a\\,b", "-o", "noexec"]
ASKED = MountOptions(SAFE | RDONLY | NOEXEC, fsname="a,b")


def test_argparse_collects_what_parse_options_takes() -> None:
    parser = argparse.ArgumentParser(
        epilog=help_text(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", action="append", default=[], metavar="OPTION,...")
    assert parse_options(parser.parse_args(WORDS).o) == ASKED
    assert help_text() in parser.format_help()


def test_click_collects_what_parse_options_takes() -> None:
    got = []

    @click.command()
    @click.option("-o", "words", multiple=True)
    def command(words: tuple[str, ...]) -> None:
        got.append(parse_options(words))

    result = click.testing.CliRunner().invoke(command, WORDS, catch_exceptions=False)
    assert result.exit_code == 0
    assert got == [ASKED]


@pytest.mark.parametrize(
    ("words", "tail"),
    [
        ([], ",default_permissions"),
        (["default_permissions"], ",default_permissions"),
        (["no_default_permissions"], ""),
        (["allow_other"], ",allow_other,default_permissions"),
        (["max_read=8192,no_default_permissions"], ",max_read=8192"),
        # These travel in other arguments of mount(2), or in INIT.
        (["ro,suid,max_write=8192,fsname=a,subtype=b,no_default_permissions"], ""),
    ],
)
def test_the_kernel_is_told_what_it_knows_and_no_more(words: list[str], tail: str) -> None:
    data = kernel_data(parse_options(words), 7, stat.S_IFDIR | 0o755, 1000, 100)
    assert data == "fd=7,rootmode=40000,user_id=1000,group_id=100" + tail


def test_the_root_of_a_mount_can_be_a_regular_file() -> None:
    data = kernel_data(MountOptions(default_permissions=False), 3, stat.S_IFREG | 0o644, 0, 0)
    assert data == "fd=3,rootmode=100000,user_id=0,group_id=0"


@pytest.mark.parametrize(
    ("given_name", "source"),
    [
        ("mem:", "mem:"),
        ("a,b c\\d", "a,b c\\d"),
        ("a\nb\0c\x1b[1m", "a?b?c?[1m"),
        ("\udcff", "\udcff"),
        ("\ud800", "?"),
        ("", "puffs"),
        ("x" * 254 + "\u00e4", "x" * 254),
    ],
)
def test_a_source_is_fit_to_be_shown(given_name: str, source: str) -> None:
    assert source_name(given_name) == source
    assert len(os.fsencode(source_name(given_name))) <= 255


@pytest.mark.statement("O2")
@pytest.mark.parametrize(
    ("subtype", "fstype"),
    [
        ("mem", "fuse.puffs.mem"),
        ("puffs.mem", "fuse.puffs.mem"),
        ("a,b", "fuse.puffs.a_b"),
        ("a b\tc\nd\\e\0", "fuse.puffs.a_b_c_d_e_"),
        ("zip.gz", "fuse.puffs.zip.gz"),
    ],
)
def test_a_type_is_one_word_and_says_puffs(subtype: str, fstype: str) -> None:
    assert type_name(subtype) == fstype
