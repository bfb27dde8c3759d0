"""What follows from the guard's verdict on a canary: it is taken out by itself, and there is an incident.

Called by whoever counts both arms and asks `monitoring.canary.judge`.
"""

from typing import Any

from infra.home import Home
from infra.settings import Settings
from monitoring.canary import Bands, Verdict
from monitoring.canary.guard import BUG_CLASS
from monitoring.runbooks import Runbook
from pipelines.incident_store import IncidentStore
from serving import rollout_store
from serving.rollout import RolloutError, end_canary
from serving.rollout_audit import GUARD, Entry

WHO = GUARD
RUNBOOK = Runbook(
    (
        "Read which metric left its band, or was missing, and by how much.",
        "Ask the server's own log for errors of the canary; compare its features with the champion's.",
        "If a metric was missing: who should have counted it?",
    ),
    (
        "Nothing is left to heal in traffic: the canary's users are back in their arms.",
        "Mend the model or its telemetry, run it as a shadow (clickproof rollout shadow HASH), then try again.",
    ),
)


def bands_of(chosen: Settings) -> Bands:
    """The guard's bands, with the graces of the settings."""
    return Bands(grace_s=chosen.canary_grace_s, label_grace_s=chosen.canary_label_grace_s)


def take_out(home: Home, artefact: str, verdict: Verdict, at_us: int, webhook_url: str = "") -> Entry | None:
    """End a canary that is to go back, and open an incident; None where the artefact is no canary any more.

    `at_us` is the time by the clock that answers go by, as for other incidents.  Raises ValueError for another verdict.
    """
    if verdict.action != "roll back":
        raise ValueError(f"the guard says {verdict.action!r}; only a canary that is to roll back is taken out")
    while True:
        now = rollout_store.read(home)
        if now.canary is None or now.canary.artefact != artefact:
            return None
        try:
            entry = rollout_store.change(home, WHO, verdict.why, end_canary, expected=now.number)
        except RolloutError:
            if rollout_store.read(home).number == now.number:
                raise
            continue  # another change came first: look again whether this is still the canary
        store = IncidentStore(home, webhook_url)
        store.record([incident(max(store.all(), default=0) + 1, artefact, verdict, at_us)], at_us)
        return entry


def incident(number: int, artefact: str, verdict: Verdict, at_us: int) -> dict[str, Any]:
    """The incident of a canary that was taken out, in the form of `monitoring.incidents.Incident.as_json`."""
    findings = verdict.findings()
    because = [str(finding.evidence["text"]) for finding in findings]
    cause = {"class": BUG_CLASS, "subject": artefact, "score": 1.0, "because": because, "onset_us": at_us}
    return {
        "number": number,
        "state": "new",
        "opened_us": at_us,
        "updated_us": at_us,
        "onset_us": at_us,
        "class": BUG_CLASS,
        "subject": artefact,
        "severity": "page",
        "evidence": [finding.as_json() for finding in findings],
        "hypotheses": [cause],
        "new_normal": False,
        "runbook": RUNBOOK.as_json(),
    }
