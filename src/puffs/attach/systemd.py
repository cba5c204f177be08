"""Telling the service manager how a service fares: sd_notify(3), without libsystemd."""

import logging
import os
import socket

logger = logging.getLogger("puffs")


def notify(*assignments: str) -> bool:
    """Send assignments (``READY=1``, ``STOPPING=1``, ``MAINPID=...``), if anybody wants them.

    To the datagram socket that NOTIFY_SOCKET names: a path, or a name in the abstract namespace
    after "@". Whether it was sent; that it could not be is logged and disturbs nobody.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall("\n".join(assignments).encode())
    except OSError as exc:
        logger.error("the service manager cannot be told %s: %s", assignments[0], exc)
        return False
    return True
