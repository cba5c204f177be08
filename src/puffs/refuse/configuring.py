"""`init_with_config`: a program that looks at what was settled, and may change some of it."""

import logging
import math
from typing import Any, Final

from puffs.attach.fuse.session import Session
from puffs.kernel.mount import Mount
from puffs.refuse.calls import Dialect, Method
from puffs.refuse.settings import Settings
from puffs.refuse.structs import fuse_config, fuse_conn_info

log = logging.getLogger("fuse")

_PLAIN: Final = ("entry_timeout", "negative_timeout", "attr_timeout")
_SWITCHES: Final = (
    "hard_remove",
    "use_ino",
    "readdir_ino",
    "direct_io",
    "kernel_cache",
    "auto_cache",
    "no_rofd_flush",
    "parallel_direct_writes",
)
_OWNERS: Final = {"uid": "set_uid", "gid": "set_gid", "umask": "set_mode"}
"""Fields of `Settings` that may be None, and what then says so in a `fuse_config`."""
_MASKS: Final = ("fmask", "dmask")
"""The same, where 0 says so."""


def configured(init: Method, mount: Mount, settings: Settings, dialect: Dialect) -> None:
    """Call `init_with_config`, and take over into `settings` what it has set in the config.

    What it has set in the connection's structure comes too late for the kernel: that is logged.
    """
    connection = _connection(mount)
    before = bytes(connection)
    config = _config(settings) if dialect.libfuse == "fuse3" else None
    init(connection, config)
    if bytes(connection) != before:
        log.warning("init_with_config has changed fuse_conn_info, which has no effect with puffs")
    if config is not None:
        _take_over(config, settings)


def _connection(mount: Mount) -> fuse_conn_info:
    facts: dict[str, Any] = {}
    for attachment in mount.attachments:
        if isinstance(attachment, Session):
            facts = attachment.facts()
    major, _, minor = str(facts.get("protocol") or "7.31").partition(".")
    size = facts.get("max_write") or 0
    return fuse_conn_info(
        proto_major=int(major), proto_minor=int(minor), max_write=size, time_gran=1
    )


def _config(settings: Settings) -> fuse_config:
    config = fuse_config(nullpath_ok=0, debug=settings.debug, remember=_remembered(settings))
    for name in _PLAIN:
        setattr(config, name, getattr(settings, name))
    for name in _SWITCHES:
        setattr(config, name, int(getattr(settings, name)))
    for name, switch in _OWNERS.items():
        value = getattr(settings, name)
        setattr(config, switch, int(value is not None))
        setattr(config, name, value or 0)
    for name in _MASKS:
        setattr(config, name, getattr(settings, name) or 0)
    return config


def _take_over(config: fuse_config, settings: Settings) -> None:
    for name in _PLAIN:
        setattr(settings, name, getattr(config, name))
    for name in _SWITCHES:
        setattr(settings, name, bool(getattr(config, name)))
    for name, switch in _OWNERS.items():
        setattr(settings, name, getattr(config, name) if getattr(config, switch) else None)
    for name in _MASKS:
        setattr(settings, name, getattr(config, name) or None)
    if config.remember != _remembered(settings):
        log.warning(
            "init_with_config has set remember, which has no effect: give it to FUSE as an option"
        )


def _remembered(settings: Settings) -> int:
    """Seconds, or -1 for ever."""
    return -1 if math.isinf(settings.remember) else int(settings.remember)
