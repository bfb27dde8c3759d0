"""The page about serving and its picture are what the recorded figures say."""

import copy
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from pipelines import figures, serving_page
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


def figured(monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Let the page be made of the recorded figures with these parts."""
    result = {**copy.deepcopy(figures.load("bench-serve").result), **more}
    monkeypatch.setattr(serving_page, "_result", lambda: result)


def test_doors_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {"rps": 1000.0, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_us": 800.0}
    both = {"rest": rest, "grpc": {**rest, "cpu_us": 1000.0}, "cpu_ratio": 1.25, "bytes": {"rest": 200, "grpc": 111}}
    figured(monkeypatch, grpc={"20": {"1": both, "16": both}})
    lines = BLOCKS["serving-doors"]().splitlines()[2:]
    assert lines == [
        f"| 20 | {calls} | {row} |"
        for calls in (1, 16)
        for row in ("REST | 200 | 1,000 | 1.00 | 2.00 | 800 | 1", "gRPC | 111 | 1,000 | 1.00 | 2.00 | 1,000 | 1.25")
    ]


def test_batches_stand_over_one_and_it_is_said_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    one, four = ({"rps": 1000.0, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_us": us} for us in (800.0, 600.0))
    ratios = {"from": 4, "best": 4, "cpu_us": 0.75, "rps": 1.0, "p50_ms": 1.0, "p99_ms": 1.0}
    measured = {"candidates": 20, "cells": {"1": {"1": one, "4": one}, "16": {"1": one, "4": four}}}
    figured(monkeypatch, micro_batch={**measured, "pays": {"1": None, "16": ratios}})
    text = BLOCKS["serving-micro-batch"]()
    assert "| 16 | 4 | 1,000 | 1.00 | 2.00 | 600 | 0.75 |" in text
    assert "**1 connection**: does not pay." in text
    assert "**16 connections**: pays from 4 on; 4 takes least, 0.75 times the processor time of 1" in text


@pytest.mark.parametrize("part", ["grpc", "micro_batch"])
def test_what_was_not_measured_yet_says_how_it_is(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    result = {name: value for name, value in figures.load("bench-serve").result.items() if name != part}
    monkeypatch.setattr(serving_page, "_result", lambda: result)
    block = {"grpc": "serving-doors", "micro_batch": "serving-micro-batch"}[part]
    assert "clickproof bench serve --record" in BLOCKS[block]()
