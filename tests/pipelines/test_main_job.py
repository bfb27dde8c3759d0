"""The main job as users run it, on the shared tiny home."""

import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree

from as_a_user import MainJob, clickproof
from patience import PATIENCE_S

from models.artefact import load
from models.registry import CHAMPION, Registry
from serving.rollout_store import agreed_champion, history

FIGURES = ("ne", "log_loss", "calibration", "ece", "auc", "user_auc", "signal_captured")


def test_the_json_has_every_family_with_intervals(main_job: MainJob) -> None:
    assert set(main_job.result["families"]) == {"logistic", "xgboost", "dcnv2"}
    for family, report in main_job.result["families"].items():
        for figure in FIGURES:
            found = report[figure]
            assert found["low"] <= found["value"] <= found["high"], (family, figure, found)


def test_every_family_beats_the_base_rate(main_job: MainJob) -> None:
    base = main_job.result["base"]["ne"]["value"]
    for family, report in main_job.result["families"].items():
        assert report["ne"]["value"] < base, family


def test_the_champion_is_the_best_that_passed_and_can_be_loaded(main_job: MainJob) -> None:
    passed = [family for family, decision in main_job.result["decisions"].items() if decision["passed"]]
    best = min(passed, key=lambda family: main_job.result["families"][family]["ne"]["value"])
    assert main_job.result["champion"] == best
    registry = Registry(main_job.home, f"sqlite:///{main_job.home.mlflow / 'mlflow.db'}")
    name = registry.alias_hash(CHAMPION)
    assert name == main_job.result["champion_artefact"]
    assert load(main_job.home.artefacts, name).family == best


def test_the_gates_promote_by_the_rollout_document_and_the_alias_follows(main_job: MainJob) -> None:
    (entry,) = history(main_job.home)
    assert (entry.who, entry.number, entry.before) == ("gates", 1, None)
    assert entry.why.startswith(f"{main_job.result['champion']}: lowest NE")
    assert entry.after.champion == main_job.result["champion_artefact"] == agreed_champion(main_job.home)


def test_every_decision_is_in_the_audit_with_reasons(main_job: MainJob) -> None:
    audit = Registry(main_job.home, f"sqlite:///{main_job.home.mlflow / 'mlflow.db'}").audit()
    assert {entry.subject for entry in audit} >= {"gates for logistic", "gates for xgboost", "gates for dcnv2"}
    assert all(entry.reasons for entry in audit)


def test_the_minutes_of_each_step_and_all_rows_are_printed(main_job: MainJob) -> None:
    for step in ("ingest events", "feature snapshots", "training set", "leakage audit", "train dcnv2", "total"):
        assert step in main_job.said
    assert "quarantined" in main_job.said
    assert main_job.result["rows_in"]["impressions"] > 40_000


def test_training_again_keeps_the_champion(main_job: MainJob, tmp_path: Path) -> None:
    """Same data, same seed: the refresh is the same artefact, so a rerun changes nothing that serves."""
    copytree(main_job.settings.home, tmp_path / "again")
    done = clickproof("train", "--size", "tiny", "--json", home=tmp_path / "again")
    again = json.loads(done.stdout.splitlines()[-1])
    assert again["champion_artefact"] == main_job.result["champion_artefact"]


def test_help_answers_at_once_and_imports_nothing_heavy() -> None:
    probe = (
        "import sys; sys.argv = ['clickproof', '--help']\n"
        "from pipelines.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'pandas', 'torch', 'feast', 'mlflow', 'prefect', 'evidently', 'xgboost', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


def test_an_error_meant_for_people_has_no_traceback(tmp_path: Path) -> None:
    done = clickproof("score", "--size", "tiny", home=tmp_path, status=2)
    assert "Traceback" not in done.stderr
    assert "clickproof:" in done.stderr
