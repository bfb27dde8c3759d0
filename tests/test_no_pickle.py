"""No pickle is ever loaded: who can change a file of ours, a model say, can't make us run code with it."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import GOOD, PROGRAM, request, serving
from small_market import with_champion

from infra.home import Home
from infra.settings import Settings
from models.registry import Registry

ROOT = Path(__file__).parent.parent
ROOMS = ("infra", "features", "models", "serving", "monitoring", "pipelines")
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "mlflow.pyfunc"}
POOLS = {"multiprocessing", "concurrent.futures"}  # pickles in pipes between processes that they start
MAY_HAVE_A_POOL = {"pipelines/gauntlet/workers.py", "pipelines/gauntlet/run.py", "serving/workers.py"}
OTHERS = ("xgboost", "dcnv2")  # families, besides logistic
BUILT_IN = {"eval", "exec", "compile", "__import__"}


def finds(tree: ast.Module) -> Iterator[str]:
    """What in a file loads pickles, or runs text as code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES | POOLS)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
            yield from names & (MODULES | POOLS)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not is_constant(node.value, False):
            yield "allow_pickle"
        if isinstance(node, ast.Call):
            yield from called(ast.unparse(node.func), {word.arg: word.value for word in node.keywords})


def called(name: str, words: dict[str | None, ast.expr]) -> Iterator[str]:
    *of, last = name.split(".")
    if not of and last in BUILT_IN:
        yield name
    if last in ("read_pickle", "unsafe_load", "full_load", "load_all", "unsafe_load_all"):
        yield name
    if last == "load" and of[-1:] == ["yaml"]:
        yield name
    if last == "load" and of[-1:] in (["np"], ["numpy"]) and not is_constant(words.get("allow_pickle"), False):
        yield name
    if last == "load" and "torch" in of and not is_constant(words.get("weights_only"), True):
        yield name
    if last == "load_model" and of[:1] == ["mlflow"]:
        yield name


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_room_loads_a_pickle_or_runs_text() -> None:
    files = {path.relative_to(ROOT).as_posix(): path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    found = {name: list(finds(ast.parse(path.read_text()))) for name, path in files.items()}
    assert {name: what for name, what in found.items() if set(what) - POOLS} == {}
    assert {name for name, what in found.items() if what} <= MAY_HAVE_A_POOL


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import joblib as j",
        "from cloudpickle import loads",
        "from mlflow import pyfunc",
        "import mlflow.pyfunc",
        "mlflow.sklearn.load_model(uri)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=wanted)",
        "np.savez(file, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pd.read_pickle(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert list(finds(ast.parse(code)))


def test_the_search_finds_nothing_else() -> None:
    fine = ("np.load(p, allow_pickle=False)", "torch.load(p, weights_only=True)", "yaml.safe_load(t)", "network.eval()")
    assert not list(finds(ast.parse("; ".join(["import json", *fine, "booster.load_model(p)"]))))


# Python raises this event whenever a pickle names a class or a function; one that names none can do nothing.  Left out is what
# numba keeps of compiled loops, and what these hold: they are code by purpose, beside Python's own .pyc files, for whoever may
# write those.
WATCH = """
import os, sys
def hear(event, given):
    if event == "pickle.find_class":
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.endswith(("/numba/core/caching.py", "/numba/core/serialize.py")):
                return
            frame = frame.f_back
        os.write(2, f"UNPICKLED {'.'.join(given)}\\n".encode())
sys.addaudithook(hear)
os.write(2, b"WATCHING\\n")
"""


def unpickled(said: str) -> list[str]:
    assert said.startswith("WATCHING\n")
    return [line.removeprefix("UNPICKLED ") for line in said.splitlines() if line.startswith("UNPICKLED ")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A small market with a model of each family."""
    return with_champion(Settings(home=tmp_path_factory.mktemp("state"), size="tiny").base(), *OTHERS)


@pytest.mark.parametrize("family", ["logistic", *OTHERS])
def test_a_server_loads_its_model_and_answers_without_a_pickle(home: Home, tmp_path: Path, family: str) -> None:
    registry = Registry.of(home)
    (artefact,) = [version.hash for version in registry.versions() if version.tags["family"] == family]
    registry.decide(artefact, "promote to champion", True, ["test"], at_us=0, alias="champion")
    with serving(home.root.parent, tmp_path / "log", program=WATCH + PROGRAM) as server:
        assert server.rank(GOOD).status == 200
        said = {path: server.send(request("GET", path)) for path in ("/v1/model", "/metrics", "/openapi.json")}
    assert [each is not None and each.status for each in said.values()] == [200, 200, 200]
    assert json.loads(said["/v1/model"].body)["family"] == family
    assert unpickled(server.log.read_text()) == []


def test_the_feature_registry_is_written_and_read_without_a_pickle(home: Home) -> None:
    """Feast's registry holds a pickle of the on-demand function."""
    program = f"""
from pathlib import Path
from features import feast_repo
from infra.home import Home
home = Home(Path({str(home.root)!r}))
for _ in range(2):
    feast_repo.apply(home, ("user", "ad", "campaign", "placement"))
(view,) = feast_repo.store(home).list_on_demand_feature_views()
print(view.feature_transformation.udf.__name__)
"""
    done = subprocess.run([sys.executable, "-c", WATCH + program], capture_output=True, text=True, check=True)
    assert done.stdout == "compute\n"
    assert unpickled(done.stderr) == []


def test_the_watch_sees_a_pickle() -> None:
    program = WATCH + "import pickle, pathlib\npickle.loads(pickle.dumps(pathlib.PurePosixPath('x')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert unpickled(done.stderr) == ["pathlib.PurePosixPath"]
