"""docs/operations.md says what the kernel really asks."""

import pytest

from puffs.server.operations import OPERATIONS
from tests.operations.page import FILE, page, protocol_of, without_release
from tests.operations.record import Guarded, record

pytestmark = pytest.mark.fuse


def test_the_page_is_what_is_recorded_here() -> None:
    text = FILE.read_text()
    recording = record()
    if recording.protocol != protocol_of(text):
        pytest.skip(
            f"the page was recorded with protocol {protocol_of(text)}, "
            f"this kernel speaks {recording.protocol}"
        )
    fresh = page(recording, record(Guarded))
    assert without_release(fresh) == without_release(text), "make operations"


def test_every_operation_has_its_section() -> None:
    text = FILE.read_text()
    assert [name for name in OPERATIONS if f"\n### {name}\n" not in text] == []
