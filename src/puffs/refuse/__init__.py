"""The APIs of other libraries, on puffs: `fusepy`, `mfusepy`, `pyfuse3` and `llfuse`.

Off Linux, where puffs cannot mount, each of these modules is the library itself.
"""

import sys

from puffs.refuse.provided.sitecustomize import Instead

ORIGINALS = {
    "puffs.refuse.fusepy": "fuse",
    "puffs.refuse.mfusepy": "mfusepy",
    "puffs.refuse.pyfuse3": "pyfuse3",
    "puffs.refuse.pyfuse3._pyfuse3": "pyfuse3._pyfuse3",
    "puffs.refuse.pyfuse3.asyncio": "pyfuse3.asyncio",
    "puffs.refuse.llfuse": "llfuse",
}
"""Module of puffs, to the one whose API it has."""

if sys.platform != "linux":
    sys.meta_path.insert(0, Instead(ORIGINALS))
