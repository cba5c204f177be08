"""What is written around the tables."""

from benchmarks.report import reasons, report
from benchmarks.results import Sample


def test_a_server_is_named_once_with_all_parts_that_miss_it() -> None:
    missing = {"pinned": {"a": "no compiler"}, "unpinned": {"a": "no compiler", "b": "it hangs"}}
    assert reasons(missing) == [
        "a: not measured (pinned, unpinned): no compiler",
        "b: not measured (unpinned): it hangs",
    ]


def test_only_what_was_measured_has_a_table() -> None:
    samples = [Sample("trees", 1, "passthrough_ll", "find", 1, 2_000_000_000)]
    said = report("a heading", samples, {})
    assert said.startswith("a heading\n\nTrees through to a directory")
    assert "2.000" in said
    assert "Round trips" not in said
    assert "in memory" not in said
