"""Truth, which no log has, is opened by evaluation and by nothing else: who may, and that nothing changes without it."""

import ast
import shutil
from pathlib import Path

import small_market
from small_market import SPEC

from infra.home import Home
from infra.settings import Settings
from pipelines import training

ROOT = Path(__file__).parent.parent
ROOMS = ("infra", "features", "models", "serving", "monitoring", "pipelines")
# The home that names the folder; the world that fills it; evaluation that reads it.
MAY_OPEN = {
    "infra/home.py",
    "pipelines/sources/history.py",
    "pipelines/sources/world/source.py",
    "pipelines/truth.py",
}
# The function `judge` of training hands truth to the evaluation report; the gauntlet's exam of the gate draws exports whose
# columns know the truth (the gate gets the columns alone).
MAY_ASK = {"pipelines/training.py", "pipelines/gauntlet/exports.py"}


def sources() -> dict[str, ast.Module]:
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in files}


def opens_truth(tree: ast.Module) -> bool:
    """Whether a file takes `.truth` of something called home, or spells the folder's name as a path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "truth" and "home" in ast.unparse(node.value).lower():
            return True
        joined = node.right if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else None
        if isinstance(joined, ast.Constant) and str(joined.value).split("/")[0] == "truth":
            return True
    return False


def test_truth_is_opened_by_the_world_and_by_evaluation_only() -> None:
    trees = sources()
    assert {name for name, tree in trees.items() if opens_truth(tree)} == MAY_OPEN
    asking = {
        name
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "pipelines.truth"
    }
    answers = {name for name in asking if name.startswith("pipelines/answers/")}  # the walkthrough compares with truth
    assert asking - answers == MAY_ASK


def test_the_search_finds_who_would_peek() -> None:
    for peeking in ("x = home.truth", "y = self.home.truth / 'a'", "z = home.root / 'truth'", "read(root / 'truth/day=1')"):
        assert opens_truth(ast.parse(peeking)), peeking
    assert not opens_truth(ast.parse("a = spec.truth; b = answer.truth; c = 'truth'"))


def test_without_the_truth_the_same_model_is_made_to_the_byte(tmp_path: Path) -> None:
    hashes = []
    for name in ("with", "without"):
        home = Home(tmp_path / name)
        small_market.SOURCE.deliver(home, progress=False)
        assert any(home.truth.iterdir())
        if name == "without":
            shutil.rmtree(home.truth)
        small_market.bring_in(home)
        parts = training.assemble(home, SPEC, Settings())
        hashes.append(training.fit("xgboost", parts, SPEC, seed=1).artefact.hash)
    assert hashes[0] == hashes[1]
