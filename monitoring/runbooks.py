"""What to do about each class of bug: what to look at first, and how to heal it.  docs/runbooks.md is generated from this.

Incidents carry their runbook; `clickproof incidents show N` prints it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from monitoring.classes import CLASSES


@dataclass(frozen=True, slots=True)
class Runbook:
    """Steps for one class, in order."""

    first: tuple[str, ...]  # what to check, quickest first
    heal: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {name: list(steps) for name, steps in asdict(self).items()}


def runbook(slug: str) -> Runbook:
    """The runbook of a class; of an unknown one, how to find out."""
    return RUNBOOKS.get(slug, UNKNOWN)


UNKNOWN = Runbook(
    ("Read the evidence of the incident, strongest first.", "Does the feature replay fail, the model replay, or neither?"),
    ("Roll back what changed last before the onset.",),
)

RUNBOOKS: Mapping[str, Runbook] = {
    "post-click-feature": Runbook(
        (
            "Compare the column's single-feature AUC with its history.",
            "Ask when the column is written: before the impression, or by the click's own event?",
        ),
        (
            "Take the column out of the feature view, or rebuild it from events before the impression.",
            "Train again; the gate must pass.",
        ),
    ),
    "point-in-time-violation": Runbook(
        (
            "Look for rows whose available_at lies after the impression that they are joined to.",
            "Was a backfill written with today's availability?",
        ),
        ("Repair available_at and rebuild the snapshots of the days concerned.", "Train again; the gate must pass."),
    ),
    "target-encoding": Runbook(
        ("Is the encoded column's AUC on its own training rows far above that on later days?",),
        ("Compute the statistic out of fold, or from days before the row.", "Train again; the gate must pass."),
    ),
    "split-duplicates": Runbook(
        ("Count ids, and rows with equal content, that stand on both sides of the split.",),
        ("De-duplicate before splitting.", "Discard the evaluation: its figures flatter."),
    ),
    "group-leak": Runbook(
        ("Is the split by time?  Is the offline metric far above the first day online?",),
        ("Split by time, and by user where users repeat.", "Discard the evaluation: its figures flatter."),
    ),
    "target-derived-column": Runbook(
        ("Look at the column's AUC and at sums of columns that equal the label.",),
        ("Take the column out.", "Train again; the gate must pass."),
    ),
    "default-value-skew": Runbook(
        (
            "Does the online store answer?  Look at its hit rate for the entity of the column.",
            "Ask the store for one of the keys in the evidence; is the row missing or the column empty?",
            "Did a key's format change (string for integer, a prefix)?",
        ),
        (
            "Materialise the view again (clickproof materialize).",
            "If keys changed: write both forms until readers agree.",
            "Exclude the rows concerned from the next training set.",
        ),
    ),
    "unit-change": Runbook(
        (
            "Divide a logged value by its recomputed one: the ratio names the unit.",
            "Which upstream release precedes the onset?",
        ),
        (
            "Convert at the contract's edge; refuse the other unit there.",
            "Recompute snapshots since the onset and materialise.",
        ),
    ),
    "category-reencoding": Runbook(
        ("Compare the vocabulary's hash with the one that the model was trained on.", "Which values changed places?"),
        (
            "Restore the vocabulary of the model's version; ids are never reassigned.",
            "If the new coding stays: train again with it.",
        ),
    ),
    "stale-features": Runbook(
        (
            "Look at the feature ages in the log, and at the last run of materialisation.",
            "Did the writer refuse rows as older?",
        ),
        (
            "Run clickproof materialize; check that ages fall.",
            "Exclude the stretch from training, or replay its features as of then.",
        ),
    ),
    "time-zone-shift": Runbook(
        (
            "Compare the hour in the features with the hour of the log's time: the difference is the offset.",
            "Did the clocks change, or did a host start with a local time zone?",
        ),
        ("Use UTC where the request is stamped.", "Recompute time features of the stretch."),
    ),
    "cast-or-rounding": Runbook(
        (
            "Count the column's distinct values today and last week.",
            "Look for a changed type: float to int, double to half, text to number.",
        ),
        (
            "Restore the type in the serving schema; test it against the offline schema.",
            "Nothing to repair in the past but the log.",
        ),
    ),
    "imputation-difference": Runbook(
        ("Nulls fell by as much as a constant rose: which constant?", "Who fills nulls, serving or training?"),
        ("Fill in one place: the model's own encoder.", "Replay the stretch before training on it."),
    ),
    "feature-order": Runbook(
        (
            "Score ten logged rows with the declared artefact by hand: do they give the logged p?",
            "Compare the encoder's hash in the log with the artefact's.",
        ),
        ("Roll back to the last image that rescores.", "Pass features by name, not by position."),
    ),
    "covariate-shift": Runbook(
        (
            "Which values grew?  Is there a campaign, a holiday, a new source of traffic?",
            "Is calibration by those values still right?",
        ),
        (
            "Nothing is broken: acknowledge as the new normal, so that the monitor learns it.",
            "Retrain if calibration suffers (clickproof retrain).",
        ),
    ),
    "new-ad-wave": Runbook(
        (
            "Which campaigns or advertisers do the new items belong to?",
            "How well calibrated is the model on items without history?",
        ),
        ("Acknowledge as the new normal.", "Retrain when the new items have clicks; explore more until then."),
    ),
    "prior-shift": Runbook(
        (
            "Do the books balance (no clicks lost, none late)?  Is the ratio the same in every slice?",
            "Did the page or the slot change?",
        ),
        ("Refit the calibrator on recent days; retrain if it lasts.", "Acknowledge as the new normal once recalibrated."),
    ),
    "concept-drift": Runbook(
        ("Look at calibration within the slice, and at what changed there.", "Is it one value of the column or all?"),
        ("Retrain with recent days weighted up.", "Until then: recalibrate the slice, or take it out of the experiment."),
    ),
    "seasonal-drift": Runbook(
        ("Compare with the same weekdays of earlier weeks, and with last year.",),
        ("Retrain on a shorter window, or more often.", "Acknowledge as the new normal."),
    ),
    "lost-clicks": Runbook(
        (
            "Compare clicks accepted with clicks joined, by hour and by browser or app version.",
            "Was the beacon, the consent banner or the join changed?",
        ),
        (
            "Replay the clicks from the raw log and join again: labels(as_of) is a pure function.",
            "Do not train on the stretch before that.",
        ),
    ),
    "duplicated-events": Runbook(
        ("Which ids repeat, and from which file or partition?", "Was a batch delivered again after a time-out?"),
        ("De-duplicate by id at ingestion; reload the stretch.", "Check that training sets of the stretch have unique ids."),
    ),
    "late-events": Runbook(
        (
            "Compare the click-delay curve with last week's; is a queue backed up?",
            "Is an upload interval or a batch size changed?",
        ),
        ("Wait before labelling: leave out impressions younger than the new delay.", "Drain the queue, then label again."),
    ),
    "bots": Runbook(
        ("List users by clicks: are a few far ahead, at all hours, with a click rate near one?",),
        ("Filter them at ingestion and mark their events.", "Relabel the stretch; inform whoever bills for clicks."),
    ),
    "null-spike": Runbook(
        ("Since when, and in which source, app version or partition?", "Is it null in the raw events already?"),
        ("Fix the producer; backfill and materialise.", "Until then the model sees 'missing': check its calibration there."),
    ),
    "partial-partition": Runbook(
        ("Which hours have no rows?  Did the producer or the loader fail?",),
        ("Deliver the files again: ingestion takes each row once.", "Hold back training until the day is whole."),
    ),
    "schema-change": Runbook(
        (
            "Read which rule refused rows, and which new values or types appeared.",
            "Which producer's release precedes the onset?",
        ),
        (
            "Agree on the contract, then load the quarantine again.",
            "New enum values: add them to the vocabulary before the model meets them.",
        ),
    ),
    "uncorrected-downsampling": Runbook(
        ("Is logit(p) off by one constant?  exp(constant) is the sampling rate of negatives.",),
        (
            "Apply p / (p + (1 - p) / w) after the model, or put the last corrected version back.",
            "Re-price what was billed by p.",
        ),
    ),
    "wrong-model-version": Runbook(
        (
            "Which hash does the log declare, and which file did the server load?",
            "Does another registered version reproduce the logged p?",
        ),
        (
            "Restart the server with the champion's hash; verify by rescoring ten rows.",
            "Repair the model column of the stretch.",
        ),
    ),
    "constant-fallback": Runbook(
        (
            "What is the constant, and which requests get it (one host, one model, one missing input)?",
            "Look for NaN in inputs or embeddings, and for time-outs.",
        ),
        ("Restart or roll back the host concerned.", "Leave fallback rows out of evaluation: they aren't the model's."),
    ),
    "quantisation": Runbook(
        ("Count distinct predictions today and last week.", "Which export or runtime changed (fp32, fp16, int8)?"),
        ("Serve the full-precision artefact.", "Gate exports on log loss against it."),
    ),
    "sample-ratio-mismatch": Runbook(
        (
            "Compare users per arm with the plan, from the onset on; is a filter applied after assignment?",
            "Are users found in two arms?",
        ),
        ("Stop reading the experiment: its result is void.", "Fix assignment, then restart it with a new salt."),
    ),
    "feedback-loop": Runbook(
        ("Compare calibration on the randomised slice with that on chosen impressions.",),
        ("Train with inverse propensities, or on the randomised slice as well.", "Raise exploration until they agree."),
    ),
    "partial-training-day": Runbook(
        ("Compare rows and clicks per day with the books.", "Is the AUC below one half? Then the classes are swapped."),
        ("Wait for the day to be whole; correct the class index.", "Train again; the gate must pass."),
    ),
}


def markdown() -> str:
    """docs/runbooks.md's generated part: every class with its steps."""
    parts = []
    for known in CLASSES:
        steps = runbook(known.slug)
        where = "Judged before training." if known.judged == "gate" else f"Visible without labels: {known.unlabelled}."
        parts.append(
            f"## {known.number}. `{known.slug}`: {known.title}\n\n{where}\n\n**Look first**\n\n"
            + "\n".join(f"1. {step}" for step in steps.first)
            + "\n\n**Heal**\n\n"
            + "\n".join(f"1. {step}" for step in steps.heal)
        )
    return "\n\n".join(parts)
