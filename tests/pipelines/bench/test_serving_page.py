"""The page about serving and its picture are what the recorded figures say."""

import xml.etree.ElementTree as ET

from pipelines import figures
from pipelines.knee_picture import NAME, knee_svg
from pipelines.serving_page import BLOCKS


def test_the_picture_is_drawn_from_the_figures() -> None:
    assert (figures.FOLDER / NAME).read_text() == knee_svg(figures.load("bench-serve").result["knee"])


def test_the_picture_shows_every_rate_that_was_tried_inside_its_frame() -> None:
    knees = figures.load("bench-serve").result["knee"]
    root = ET.fromstring(knee_svg(knees))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    rates = [{one["rate"] for one in [*k["probes"], k["half"], k["knee"], k["triple"]]} for k in knees.values()]
    assert len(circles) >= sum(map(len, rates)) + len(knees)
    for node in circles:
        assert 0 < float(node.attrib["cx"]) < width
        assert 0 < float(node.attrib["cy"]) < height
    assert "prefers-color-scheme: dark" in (root.find("{*}style").text or "")  # type: ignore[union-attr]


def test_every_goal_stands_beside_what_was_measured() -> None:
    result, text = figures.load("bench-serve").result, BLOCKS["serving-ratios"]()
    lines = text.splitlines()[2:]
    assert len(lines) == len(result["ratios"]) + len(result["stages"])
    for line, (name, measured) in zip(lines, result["ratios"].items(), strict=False):
        assert f"| {measured:.2f} |" in line
        if name in result["goals"]:
            bound, goal = result["goals"][name]
            met = measured <= goal if bound == "at most" else measured >= goal
            assert line.endswith(f"| {bound} {goal:g} | {'yes' if met else '**no**'} |")
