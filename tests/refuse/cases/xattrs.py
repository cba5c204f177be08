"""Extended attributes."""

import os

from puffs.check import libc
from tests.refuse.saying import Place, Say, case, write


@case("tree")
def extended_attributes(at: Place, say: Say) -> None:
    write(at("file"))
    say("none", os.listxattr, at("file"))
    say("missing", os.getxattr, at("file"), "user.a")
    say("set", os.setxattr, at("file"), "user.a", b"value")
    say("get", os.getxattr, at("file"), "user.a")
    say("empty", os.setxattr, at("file"), "user.e", b"")
    say("get empty", os.getxattr, at("file"), "user.e")
    say("binary", os.setxattr, at("file"), "user.b", bytes(range(256)) * 4)
    say("get binary", lambda: os.getxattr(at("file"), "user.b") == bytes(range(256)) * 4)
    say("list", lambda: sorted(os.listxattr(at("file"))))
    say("create", os.setxattr, at("file"), "user.a", b"x", os.XATTR_CREATE)
    say("replace", os.setxattr, at("file"), "user.z", b"x", os.XATTR_REPLACE)
    say("room for none", libc.getxattr, os.fsdecode(at("file")), "user.a", 0)
    say("too little room", libc.getxattr, os.fsdecode(at("file")), "user.a", 2)
    say("list: room for none", libc.listxattr, os.fsdecode(at("file")), 0)
    say("list: too little room", libc.listxattr, os.fsdecode(at("file")), 3)
    say("remove", os.removexattr, at("file"), "user.a")
    say("removed", os.getxattr, at("file"), "user.a")
    say("remove again", os.removexattr, at("file"), "user.a")
    say("no file", os.getxattr, at("missing"), "user.a")


@case("tree")
def names_of_attributes(at: Place, say: Say) -> None:
    write(at("file"))
    for name in ("trusted.t", "security.s", "nowhere.x", "user.", "plain", "user." + "n" * 250):
        say(f"set {name:.12}", os.setxattr, at("file"), name, b"1")
        say(f"get {name:.12}", os.getxattr, at("file"), name)
    say("too long", os.setxattr, at("file"), "user." + "n" * 251, b"1")
    say("too large", os.setxattr, at("file"), "user.l", bytes(65_537))


@case("tree")
def attributes_of_others(at: Place, say: Say) -> None:
    os.mkdir(at("dir"))
    os.symlink(b"dir", at("link"))
    say("dir", os.setxattr, at("dir"), "user.d", b"1")
    say("dir: list", os.listxattr, at("dir"))
    say("through the link", os.getxattr, at("link"), "user.d")
    say("the link", lambda: os.setxattr(at("link"), "trusted.l", b"2", follow_symlinks=False))
    say("the link: user", lambda: os.setxattr(at("link"), "user.l", b"2", follow_symlinks=False))
    say("the link: list", lambda: os.listxattr(at("link"), follow_symlinks=False))
