"""Diagnosis: signs name the class and its column, causes stand before consequences, numbers decide between twins."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_findings import found

from monitoring.classes import CLASSES
from monitoring.diagnosis import diagnose, explains
from monitoring.diagnosis.observed import SIGNS, TIER_OF, condense, observe
from monitoring.diagnosis.profiles import PROFILES
from monitoring.findings import SYMPTOMS, Finding

REPLAYED = {
    "to-null": "null-spike", "to-default": "default-value-skew", "from-null": "imputation-difference", "ratio": "unit-change",
    "permuted": "category-reencoding", "rounded": "cast-or-rounding", "older": "stale-features", "shifted": "time-zone-shift",
}  # fmt: skip
RESCORED = {
    "rescore-offset": "uncorrected-downsampling", "rescore-constant": "constant-fallback", "rescore-rounded": "quantisation",
}  # fmt: skip
CLICKS = [
    ({"calibration-high"}, "prior-shift", {"labels", "books"}),
    ({"calibration-low"}, "prior-shift", {"labels", "books"}),
    ({"calibration-low", "unreconciled"}, "lost-clicks", {"labels", "books"}),
    ({"calibration-low"}, "lost-clicks", {"labels"}),
    ({"calibration-low", "young-clicks-missing"}, "late-events", {"labels", "arrivals", "books"}),
    ({"slow-calibration"}, "seasonal-drift", {"labels", "books"}),
    ({"randomised-slice"}, "feedback-loop", {"labels", "books"}),
]


def top(*findings: Finding, looks: set[str] | None = None) -> tuple[str, str]:
    best = diagnose(findings, looks)[0]
    return best.bug_class, best.subject


def test_every_live_class_has_a_profile_of_known_symptoms() -> None:
    assert set(PROFILES) == {known.slug for known in CLASSES if known.judged == "live"}
    for slug, profile in PROFILES.items():
        used = {*profile.own, *profile.features, *profile.prediction, *profile.rest}
        assert used <= set(TIER_OF), slug
        assert all(0 < chance < 1 for table in (profile.own, profile.features, profile.rest) for chance in table.values())
    assert set(SIGNS.values()) <= set(SYMPTOMS["distribution"])


@pytest.mark.parametrize(("symptom", "slug"), REPLAYED.items())
def test_what_recomputation_shows_names_the_feature_bug(symptom: str, slug: str) -> None:
    consequences = [found("location-moved", "prediction", 2.0), found("calibration-low", "clicks", 1.5, ratio=0.8)]
    assert top(found(symptom, "price"), *consequences, looks={"features", "model", "labels", "books"}) == (slug, "price")


@pytest.mark.parametrize(("symptom", "slug"), RESCORED.items())
def test_what_rescoring_shows_names_the_artefact(symptom: str, slug: str) -> None:
    assert top(found(symptom, "prediction"), found("calibration-low", "clicks", 3.0), looks={"features", "model"})[0] == slug


@pytest.mark.parametrize(("symptoms", "slug", "looks"), CLICKS)
def test_where_both_replays_pass_clicks_tell_labels_from_the_world(symptoms: set[str], slug: str, looks: set[str]) -> None:
    findings = [found(symptom, "clicks", 3.0) for symptom in sorted(symptoms)]
    assert top(*findings, looks={*looks, "features", "model"}) == (slug, "clicks")


def test_a_moved_mix_is_the_world_where_recomputation_agrees_and_the_store_where_it_does_not() -> None:
    moved = [found("shares-moved", "device", 3.0), found("shares-moved", "prediction", 1.2)]
    assert top(*moved, looks={"features", "model"}) == ("covariate-shift", "device")
    assert top(*moved, found("permuted", "device", 2.0), looks={"features", "model"}) == ("category-reencoding", "device")


def test_causes_stand_before_their_consequences_however_loud() -> None:
    cause = found("zeros-up", "item_ctr", 6.0, hour=3, guess="default-value-skew")
    wake = [
        found("slice-calibration", "prediction", 40.0, hour=3, ratio=6.0), found("calibration-high", "clicks", 12.0, hour=4),
        found("residual-moved", "prediction", 5.0, hour=4, guess="feature-order", offset=-1.0, spread=1.4),
    ]  # fmt: skip
    assert top(cause, *wake) == ("default-value-skew", "item_ctr")


def test_what_began_earlier_is_no_consequence() -> None:
    late = found("shares-moved", "device", 1.5, hour=20, guess="covariate-shift")
    assert top(late, found("calibration-low", "clicks", 8.0, hour=2), looks={"labels", "books"}) == ("prior-shift", "clicks")


def test_a_faint_notice_on_a_feature_does_not_explain_loud_clicks() -> None:
    assert (
        top(found("shares-moved", "device", 0.6, guess="covariate-shift"), found("calibration-high", "clicks", 5.0))[0]
        == "prior-shift"
    )


def test_numbers_decide_between_twins() -> None:
    assert top(found("location-moved", "price", ratio=1000.0))[0] == "unit-change"
    assert top(found("location-moved", "price", ratio=1.1))[0] == "covariate-shift"
    assert top(found("invariant-broken", "hour", **{"with": "time"}, shift=2.0))[0] == "time-zone-shift"
    assert top(found("invariant-broken", "brand", **{"with": "item"}, guess="category-reencoding"))[0] == "category-reencoding"
    zeros = found("zeros-up", "income", guess="default-value-skew", share=0.09, nulls_change=-0.09)
    assert top(zeros)[0] == "imputation-difference"
    assert top(found("zeros-up", "income", guess="default-value-skew", share=0.09, nulls_change=0.0))[0] == "default-value-skew"
    many = found("distinct-down", "prediction", guess="quantisation", signs={"distinct+": 5.0, "grid+": 4.0})
    one = found("distinct-down", "prediction", guess="quantisation", signs={"distinct+": 5.0, "top+": 5.0})
    assert (top(many)[0], top(one)[0]) == ("quantisation", "constant-fallback")


def test_patterns_of_every_row_stand_before_those_of_some() -> None:
    some = found("to-default", "scroll", 9.0, guess="default-value-skew", pattern_share=0.7)
    every = found("rounded", "scroll", 5.0, guess="cast-or-rounding", pattern_share=1.0)
    assert top(some, every, found("zeros-up", "scroll", 5.0)) == ("cast-or-rounding", "scroll")
    renamed = found("permuted", "placement", 9.0, guess="category-reencoding", pattern_share=1.0)
    assert top(renamed)[0] == "category-reencoding"
    assert top(renamed, found("new-values", "placement", 9.0))[0] == "schema-change"


def test_the_echo_of_the_opposite_says_nothing() -> None:
    low, echo = found("calibration-low", "clicks", 9.0), found("calibration-high", "clicks", 0.7)
    assert [h.score for h in diagnose([low, echo], {"labels"})] == [h.score for h in diagnose([low], {"labels"})]


def test_an_offset_is_a_missing_correction_and_a_spread_another_model() -> None:
    calibration = found("calibration-low", "clicks", 4.0, ratio=0.4, p_change=2.4)
    assert top(found("residual-moved", "prediction", offset=0.9, spread=0.1), calibration)[0] == "uncorrected-downsampling"
    spread = diagnose([found("residual-moved", "prediction", offset=0.0, spread=0.7)])
    assert {h.bug_class for h in spread[:2]} == {"feature-order", "wrong-model-version"}


def test_what_a_tier_calls_a_consequence_is_one() -> None:
    derived = replace(found("ratio", "user_category_ctr", 9.0, follows="user_ctr"), severity="notice")
    source = found("to-default", "user_ctr", 5.0)
    assert top(derived, source, looks={"features"}) == ("default-value-skew", "user_ctr")


def test_rescoring_names_the_column_or_the_version_that_statistics_do_not_know() -> None:
    residual = found("residual-moved", "prediction", 20.0, offset=0.0, spread=0.7)
    order = found("rescore-mismatch", "price", 3.0, guess="feature-order")
    assert top(residual, order, looks={"features", "model"}) == ("feature-order", "price")
    other = found("rescore-mismatch", "ab12", 3.0, guess="wrong-model-version")
    assert top(residual, other, looks={"features", "model"}) == ("wrong-model-version", "ab12")


def test_signs_beside_the_sharpest_count_too() -> None:
    zeros = found("zeros-up", "scroll", 8.0, guess="default-value-skew")
    coarse = found("zeros-up", "scroll", 8.0, guess="cast-or-rounding", signs={"zero+": 8.0, "distinct+": 8.0, "cast+": 8.0})
    assert {each.symptom for each in observe([coarse])} == {"zeros-up", "distinct-down"}
    assert (top(zeros)[0], top(coarse)[0]) == ("default-value-skew", "cast-or-rounding")


def test_the_onset_is_the_first_sign_of_the_guilty_column() -> None:
    faint, fair, clear = (found("zeros-up", "a", excess, hour=hour) for excess, hour in ((0.4, 1), (4.0, 9), (6.0, 12)))
    best = diagnose([faint, fair, clear, found("zeros-up", "b", hour=2)])
    assert {h.subject: h.onset_us for h in best}["a"] == 9 * 3600 * 10**6


def test_a_class_outside_the_table_is_taken_at_its_word() -> None:
    strange = Finding("x", "feature-drift", "price", "page", {})
    assert top(strange) == ("feature-drift", "price")
    assert explains(diagnose([strange])[0], strange)
    assert diagnose([]) == []


FINDINGS = st.builds(
    found,
    symptom=st.sampled_from([s for tier in ("distribution", "replay", "calibration", "exact") for s in SYMPTOMS[tier]]),
    subject=st.sampled_from(["price", "device", "prediction", "clicks", "user"]),
    excess=st.floats(0.1, 500.0),
    hour=st.integers(0, 30),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(FINDINGS, min_size=1, max_size=12))
def test_hypotheses_are_ranked_shares_with_reasons_whatever_was_found(findings: list[Finding]) -> None:
    ranked = diagnose(findings)
    scores = [h.score for h in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert sum(scores) <= 1 + 1e-9
    assert all(h.because for h in ranked)
    assert {h.subject for h in ranked} <= {f.subject for f in findings}


@settings(deadline=None, max_examples=40)
@given(st.lists(FINDINGS, min_size=1, max_size=12))
def test_neither_order_nor_repetition_changes_the_diagnosis(findings: list[Finding]) -> None:
    once, again = diagnose(condense(findings)), diagnose(condense([*reversed(findings), *findings]))
    assert [h.score for h in once] == pytest.approx([h.score for h in again])
