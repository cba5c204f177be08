"""pyfuse3 in asyncio in place of trio: `pyfuse3.asyncio.enable()`, before `pyfuse3.main()`.

An exception of a handler that is no `FUSEError` is logged, and does not end `main`.
"""

from puffs.refuse.pyfuse3 import _serving


def enable() -> None:
    """Have `main` run in an asyncio event loop."""
    _serving.asyncio_mode = True


def disable() -> None:
    """Have `main` run in trio, as it does by default."""
    _serving.asyncio_mode = False
