"""From findings to causes: ranked hypotheses.  Pure; called by the incident desk and by `clickproof monitor log`.

Naive Bayes over what was observed, with the chances of `monitoring.diagnosis.profiles`: each observation adds the logarithm
of how much likelier it is under a cause than by another one, weighted by its strength; what a cause should show and a check
that could look did not see counts against it.  Three rules keep consequences behind causes: what follows counts for a cause
only as far as the cause is as strong as what follows, only if it did not begin first, and by the square root of how much of it
there is.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monitoring.classes import CLASSES
from monitoring.diagnosis.details import detail
from monitoring.diagnosis.observed import TIER_OF, Observation, later, observe
from monitoring.diagnosis.profiles import PROFILES, Profile
from monitoring.findings import Finding

ELSEWHERE = 0.02  # chance of seeing a symptom that has another cause than the one in question
UNEXPLAINED = 0.002  # the same for a page that the class does not lead one to see at all
FOLLOWS = 0.5  # chance of what the tier itself calls a consequence of the cause
STRAY = 0.008  # the same for a notice: those come by themselves now and then
GUESS = 1.2  # log odds for the class that the tier named itself: it has seen more than it could write down
PLAIN = {"prior-shift", "concept-drift"}  # what the calibration tier calls anything that it cannot tell more about
REPLAY_AGREES = 2.0  # log odds against a feature bug whose column recomputes, and against an artefact that rescores
MISSING = 0.8  # weight of what should have been seen and was not: checks differ in power
BROAD = 2.0  # softens the posterior: observations are not independent, as naive Bayes would have it
MOST = 8  # hypotheses worth showing
TITLES = {known.slug: known.title for known in CLASSES}

Looks = Collection[str]  # what could be looked at: "features", "model" (the replays), "labels", "arrivals" of clicks, "books"
_MODEL_SIDE = ("feature", "artefact")


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One explanation of everything found."""

    bug_class: str  # a slug of monitoring.classes
    subject: str
    score: float  # 0 .. 1; the hypotheses of one incident add up to at most 1
    because: tuple[str, ...]  # in words, with the numbers
    onset_us: int | None = None

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {**asdict(self), "class": self.bug_class, "because": list(self.because)}


def diagnose(findings: Sequence[Finding], looks: Looks | None = None) -> list[Hypothesis]:
    """Explanations of the findings of one episode, likeliest first; empty where nothing was found.

    `looks` says what the checks could look at; without it, what they found something with.
    """
    observed = observe(findings)
    if not observed:
        return []
    seen = set(looks) if looks is not None else looked_at(observed)
    candidates = _candidates(observed)
    weighed = [(_weigh(slug, subject, observed, seen), slug, subject) for slug, subject in candidates]
    weighed.sort(key=lambda w: (-w[0][0], w[1], w[2]))
    top = weighed[0][0][0]
    shares = [math.exp((total - top) / BROAD) for (total, _), _, _ in weighed]
    return [
        Hypothesis(slug, subject, share / sum(shares), because, _onset(slug, subject, observed))
        for ((_, because), slug, subject), share in list(zip(weighed, shares, strict=True))[:MOST]
    ]


def explains(hypothesis: Hypothesis, finding: Finding) -> bool:
    """Whether a finding is what the hypothesis would lead one to see, on its subject or in its wake."""
    profile = PROFILES.get(hypothesis.bug_class)
    each = observe([finding])[0]
    if profile is None:
        return each.subject == hypothesis.subject
    if _is_own(profile, hypothesis.subject, each):
        return True
    return _wake(profile, each) > 0


def looked_at(observed: Iterable[Observation]) -> set[str]:
    """What the checks must have been able to look at, judged by what they found something with."""
    return {look for each in observed for look in (_needs(each.symptom),) if look}


def _needs(symptom: str) -> str:
    if symptom.startswith("rescore-"):
        return "model"
    if symptom in {"to-null", "to-default", "from-null", "ratio", "permuted", "rounded", "older", "shifted", "mismatch"}:
        return "features"
    if symptom == "young-clicks-missing":
        return "arrivals"
    if TIER_OF.get(symptom) == "calibration":
        return "labels"
    return "books" if symptom == "unreconciled" else ""


def _candidates(observed: Sequence[Observation]) -> list[tuple[str, str]]:
    """(class, subject) of everything that could have shown one of the observations on its own subject."""
    found: dict[tuple[str, str], None] = {}
    for each in observed:
        subject = each.subject
        for slug, profile in PROFILES.items():
            if profile.own.get(each.symptom, 0.0) > ELSEWHERE and _fits(profile, each):
                found[slug, subject] = None
        if not any(slug in PROFILES for slug in each.guesses):
            found.update({(slug, subject): None for slug in each.guesses})
        found.update({(slug, subject): None for slug in each.guesses if slug in PROFILES})
    return list(found)


def _fits(profile: Profile, each: Observation) -> bool:
    """Whether a symptom of this subject can be the class's own: artefacts show in predictions, feature bugs in features."""
    if is_prediction(each):
        return profile.place == "artefact"
    if profile.place == "artefact":
        return False
    return each.tier != "calibration" or profile.place != "feature"


def is_prediction(each: Observation) -> bool:
    """Whether the observation is about what the model gave rather than what it was given."""
    return each.subject in ("prediction", "model") or each.symptom.startswith("rescore-") or each.symptom == "unknown-version"


def _is_own(profile: Profile, subject: str, each: Observation) -> bool:
    if each.symptom not in profile.own:
        return False
    if each.symptom == "slice-calibration" and each.subject == subject:
        return True  # it would not make one suspect a feature's path, but does count where something else does
    return _fits(profile, each) and (profile.place == "artefact" or each.subject == subject)


def _wake(profile: Profile, each: Observation) -> float:
    """The chance that the observation follows from the class at another subject; 0 where it does not."""
    if each.tier in ("calibration", "exact", "experiment"):
        return profile.rest.get(each.symptom, 0.0)
    if is_prediction(each):
        return profile.prediction.get(each.symptom, 0.0)
    return profile.features.get(each.symptom, 0.0)


def _weigh(slug: str, subject: str, observed: Sequence[Observation], seen: Looks) -> tuple[float, tuple[str, ...]]:
    """Log odds of one explanation, and what speaks for it in words."""
    profile = PROFILES.get(slug)
    if profile is None:  # a class outside the table: the tier's word is all there is
        mine = [each for each in observed if each.subject == subject and slug in each.guesses]
        return sum(2 * each.strength for each in mine), tuple(each.text for each in mine)
    own = [each for each in observed if _is_own(profile, subject, each)]
    total = math.log(profile.prior)
    for each in own:
        total += each.strength * math.log(profile.own[each.symptom] / ELSEWHERE)
        total += detail(slug, each) + (GUESS * each.strength if slug in each.guesses and slug not in PLAIN else 0.0)
    total += _absences(profile, own, seen)
    cause = max(own, key=lambda each: each.strength, default=None)
    if profile.place == "artefact":  # all that is seen of the prediction is its own, whoever is named; the best seen names it
        total += max((_naming(each) for each in own if each.subject == subject), default=0.0)
    follows = [each for each in observed if each not in own]
    weights: dict[str, list[float]] = {}
    explained = []
    for each in follows:
        weight = each.strength * math.log(_chance(profile, each, cause) / ELSEWHERE)
        where = each.tier if each.tier in ("calibration", "exact", "experiment") else "p" if is_prediction(each) else "x"
        weights.setdefault(where + ("+" if weight > 0 else "-"), []).append(weight)
        if weight > 0:
            explained.append(each)
    total += sum(sum(each) / math.sqrt(len(each)) for each in weights.values())
    return total, _because(slug, own, explained, profile, seen)


def _naming(each: Observation) -> float:
    """How much an observation has to say about who is guilty: rescoring knows the column or the version, statistics do not."""
    return 0.3 * each.strength + (0.5 if each.tier in ("replay", "exact") else 0.0)


def _chance(profile: Profile, each: Observation, cause: Observation | None) -> float:
    """The chance of seeing an observation in the wake of a cause that is seen as strongly as this."""
    chance = _wake(profile, each)
    if cause is not None and each.evidence.get("follows") == cause.subject:
        chance = FOLLOWS
    if chance == 0:
        return UNEXPLAINED if each.page and each.weight >= 1 else STRAY
    if chance <= ELSEWHERE:
        return chance
    if cause is None or not later(each, cause):
        return UNEXPLAINED if each.page else STRAY
    follows = min(1.0, cause.strength / each.strength) ** 2
    if each.page and not cause.page:
        follows = 0.0  # inputs are watched more closely than clicks: a cause that is hardly seen has no loud consequence
    return ELSEWHERE + (chance - ELSEWHERE) * follows


def _absences(profile: Profile, own: Sequence[Observation], seen: Looks) -> float:
    """What speaks against the class by not being there."""
    against = 0.0
    shown = {each.symptom for each in own}
    replayed = any(_needs(symptom) in ("features", "model") for symptom in shown)
    side = {"feature": "features", "artefact": "model"}.get(profile.place)
    expects = [s for s, chance in profile.own.items() if side and _needs(s) == side and chance >= 0.5]
    if side in seen and expects and not replayed:
        against -= REPLAY_AGREES
    for symptom in profile.must:
        if symptom not in shown and _needs(symptom) in seen:
            against += MISSING * math.log((1 - profile.own[symptom]) / (1 - ELSEWHERE))
    return against


def _because(
    slug: str, own: Sequence[Observation], explained: Sequence[Observation], profile: Profile, seen: Looks
) -> tuple[str, ...]:
    said = [each.text for each in sorted(own, key=lambda each: -each.weight)[:4]]
    if explained:
        strongest = sorted(explained, key=lambda each: -each.excess)[:3]
        said.append(f"would also explain {', '.join(f'{e.symptom} in {e.subject}' for e in strongest)}"
                    + (f" and {len(explained) - 3} more" if len(explained) > 3 else ""))  # fmt: skip
    symptoms = {_needs(each.symptom) for each in own}
    if profile.place == "world" and "features" in seen and "features" not in symptoms:
        said.append("logged features recompute: nothing is wrong between the world and the model")
    if profile.place == "feature" and "features" in symptoms and "model" in seen:
        said.append("the declared model gives the logged p on the logged features: the fault lies before it")
    if profile.place == "artefact" and "model" in symptoms and "features" in seen:
        said.append("logged features recompute, the prediction does not: the fault lies in the model")
    return tuple(said) or (TITLES.get(slug, slug),)


def _onset(slug: str, subject: str, observed: Sequence[Observation]) -> int | None:
    profile = PROFILES.get(slug)
    own = [e for e in observed if (e.subject == subject if profile is None else _is_own(profile, subject, e))]
    onsets = [each.onset_us for each in own if each.onset_us is not None]
    return min(onsets) if onsets else None
