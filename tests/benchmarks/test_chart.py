"""The chart, from samples that were never measured."""

import re
from xml.etree import ElementTree

import pytest

from benchmarks.chart import MARKS, chart
from benchmarks.report import TABLES
from benchmarks.results import Sample

SVG = "{http://www.w3.org/2000/svg}"
COSTS = {"floor": 100, "puffs": 137, "pyfuse3": 700, "puffs-isolated": 400}
SAMPLES = [
    Sample("pinned", number, server, "open_close", 1, ns * number)
    for number in (1, 2, 3)
    for server, ns in COSTS.items()
]


@pytest.fixture(scope="module")
def drawn() -> ElementTree.Element:
    return ElementTree.fromstring(chart("a <title>", "a note", TABLES, SAMPLES))


def words(drawn: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in drawn.iter(f"{SVG}text")]


def marks(drawn: ElementTree.Element, name: str) -> list[float]:
    """Return how far to the right the marks of a framework are: in the legend, then in a panel."""
    index = next(index for index, mark in enumerate(MARKS) if mark.name == name)
    found = [
        element.get("transform", "")
        for element in drawn.iter(f"{SVG}path")
        if element.get("class") == f"mark m{index}"
    ]
    return [float(re.findall(r"[\d.]+", where)[0]) for where in found]


def test_it_names_what_it_shows(drawn: ElementTree.Element) -> None:
    assert {"a <title>", "a note", "open close", "puffs", "pyfuse3", "1.37"} <= set(words(drawn))


def test_what_was_not_measured_is_not_there(drawn: ElementTree.Element) -> None:
    assert not {"mfusepy", "stat", TABLES[1].title} & set(words(drawn))


def test_what_costs_more_is_further_to_the_right(drawn: ElementTree.Element) -> None:
    _, ours = marks(drawn, "puffs")
    _, theirs = marks(drawn, "pyfuse3")
    assert ours < theirs


def test_servers_without_a_mark_are_only_in_the_table(drawn: ElementTree.Element) -> None:
    paths = drawn.iter(f"{SVG}path")
    assert sum(element.get("class", "").startswith("mark") for element in paths) == 4


def test_it_has_colours_for_dark_pages(drawn: ElementTree.Element) -> None:
    style = drawn.findtext(f"{SVG}style") or ""
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for index, mark in enumerate(MARKS):
        assert f".m{index} {{ fill: {mark.light} }}" in light
        assert f".m{index} {{ fill: {mark.dark} }}" in dark


def test_its_figures_are_there_for_those_who_cannot_see_it(drawn: ElementTree.Element) -> None:
    assert "open_close 1.37" in (drawn.findtext(f"{SVG}desc") or "")
