"""Runbooks: one for every class, on the generated page, with steps that can be taken."""

from monitoring.classes import CLASSES
from monitoring.runbooks import RUNBOOKS, UNKNOWN, markdown, runbook


def test_every_class_has_one_and_nothing_else_has() -> None:
    assert set(RUNBOOKS) == {known.slug for known in CLASSES}
    for slug, steps in RUNBOOKS.items():
        assert steps.first, slug
        assert steps.heal, slug
        assert all(step[0].isupper() and step[-1] in ".?" for step in (*steps.first, *steps.heal)), slug


def test_an_unknown_class_gets_the_general_steps() -> None:
    assert runbook("feature-drift") is UNKNOWN
    assert list(UNKNOWN.as_json()) == ["first", "heal"]


def test_the_page_has_a_chapter_for_each() -> None:
    page = markdown()
    for known in CLASSES:
        assert f"## {known.number}. `{known.slug}`: {known.title}" in page
