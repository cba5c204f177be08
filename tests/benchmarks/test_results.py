"""What is made of measurements, without measuring anything."""

import json

from benchmarks.results import ABSENT, MICROSECONDS, Costs, Sample, Table, pack, rows, text, unpack

# In round 2 everything takes ten times as long, as on a machine that does something else.
SAMPLES = [
    Sample("p", 1, "floor", "stat", 10, 50_000),
    Sample("p", 1, "ours", "stat", 10, 75_000),
    Sample("p", 2, "floor", "stat", 10, 500_000),
    Sample("p", 2, "ours", "stat", 10, 750_000),
    Sample("p", 3, "floor", "stat", 10, 60_000),
    Sample("p", 3, "ours", "stat", 10, 96_000),
    Sample("p", 1, "floor", "open", 1, 9_000),
    Sample("other", 1, "ours", "open", 1, 9_000),
]
TABLE = Table(
    "p", "a title", "times", "floor", MICROSECONDS, ["floor", "ours", "gone"], ["stat", "open"]
)


def test_ratios_are_of_the_same_round() -> None:
    costs = Costs(SAMPLES, "p")
    assert costs.ratio("ours", "floor", "stat") == 1.5
    assert costs.typical("floor", "stat") == 6000


def test_rounds_that_only_one_has_are_left_out() -> None:
    more = [*SAMPLES, Sample("p", 4, "ours", "stat", 10, 10**9)]
    assert Costs(more, "p").ratio("ours", "floor", "stat") == 1.5


def test_what_was_not_measured_has_no_figure() -> None:
    costs = Costs(SAMPLES, "p")
    assert costs.ratio("ours", "floor", "open") is None
    assert costs.typical("gone", "stat") is None


def test_a_table_has_the_base_in_its_unit_and_multiples_of_it() -> None:
    assert rows(TABLE, SAMPLES) == [
        ["server", "stat", "open"],
        ["floor (µs)", "6.0", "9.0"],
        ["ours", "1.50", ABSENT],
    ]


def test_rows_for_pairs_come_last() -> None:
    table = TABLE._replace(pairs=[("floor", "ours", "back"), ("gone", "ours", "never")])
    assert rows(table, SAMPLES)[3:] == [["back", "0.67", ABSENT]]


def test_servers_that_do_less_are_apart() -> None:
    table = TABLE._replace(servers=["floor"], apart=["ours", "gone"])
    assert [row[0] for row in rows(table, SAMPLES)] == ["server", "floor (µs)", "ours"]


def test_a_table_of_nothing_has_no_rows() -> None:
    assert rows(TABLE._replace(part="nothing"), SAMPLES) == []


def test_columns_are_as_wide_as_they_must_be() -> None:
    assert text([["server", "stat"], ["a", "1.00"], ["longer name", "10.00"]]).splitlines() == [
        "server        stat",
        "a             1.00",
        "longer name  10.00",
    ]


def test_samples_come_back_from_json() -> None:
    back = unpack(json.loads(json.dumps(pack(SAMPLES))))
    assert sorted(back) == sorted(SAMPLES)
