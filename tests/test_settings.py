"""One table of settings, explained and documented; the environment and the machine's date are read in one place each."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import ExplainedError
from infra.settings import Settings
from pipelines.guarded import serve
from pipelines.page_blocks import BLOCKS
from pipelines.pages import render_all

ROOT = Path(__file__).parent.parent
ROOMS = ("infra", "features", "models", "serving", "monitoring", "pipelines")
MAY_READ_THE_ENVIRONMENT = {"infra/settings.py", "pipelines/environment.py"}
MAY_READ_THE_DATE = {"infra/clock.py"}
ENVIRONMENT = ("environ", "environb", "getenv", "getenvb", "putenv")
DATES = ("now", "utcnow", "today", "time", "time_ns", "localtime", "gmtime")
# Calls that read the date by themselves where they get no argument, or whose words ask for it.
CLOCKS = ("datetime", "date", "time", "dt", "Timestamp", "pendulum")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is_for(name: str) -> None:
    said = Settings.model_fields[name].description
    assert said
    assert len(said) > 20
    assert said.endswith(".")


def test_the_docs_list_every_setting() -> None:
    text = BLOCKS["settings"]()
    assert all(f"`CLICKPROOF_{name.upper()}`" in text for name in Settings.model_fields)
    assert text in (ROOT / "docs" / "design.md").read_text()


@pytest.mark.parametrize(
    "given",
    [{"epsilon": "2"}, {"epsilon": "nan"}, {"clock": "moon"}, {"max_body_bytes": 0}, {"max_candidates": 0}, {"port": 0}],
)
def test_a_value_with_which_nothing_could_work_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        Settings(**given)


def test_a_home_that_can_never_be_is_not_waited_for(tmp_path: Path) -> None:
    for wrong in ({"size": "huge"}, {"source": "moon"}):
        with pytest.raises(ExplainedError, match=next(iter(wrong.values()))):
            serve(Settings(home=tmp_path, **wrong))
    assert not any(tmp_path.iterdir())


def test_every_generated_part_of_the_docs_is_what_its_source_says() -> None:
    assert render_all(check=True) == 0


def reads(tree: ast.Module) -> Iterator[str]:
    """What a file reads of the environment ("environment") and of the machine's date ("date")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
            yield "environment"
        if isinstance(node, ast.ImportFrom) and node.module == "os" and {n.name for n in node.names} & set(ENVIRONMENT):
            yield "environment"
        if isinstance(node, ast.ImportFrom) and node.module == "time" and {n.name for n in node.names} & set(DATES):
            yield "date"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = ast.unparse(node.func.value).split(".")[-1]
            if of in CLOCKS and node.func.attr in DATES:
                yield "date"
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if node.func.attr == "datetime64" and {"now", "today"} & {word for word in words if isinstance(word, str)}:
                yield "date"


@pytest.mark.parametrize(("what", "allowed"), [("environment", MAY_READ_THE_ENVIRONMENT), ("date", MAY_READ_THE_DATE)])
def test_one_module_reads_it(what: str, allowed: set[str]) -> None:
    files = {path.relative_to(ROOT).as_posix(): path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert {name for name, path in files.items() if what in reads(ast.parse(path.read_text()))} <= allowed


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("os.environ['HOME']", "environment"), ("from os import getenv", "environment"), ("os.getenv('A')", "environment"),
        ("time.time()", "date"), ("datetime.now(UTC)", "date"), ("datetime.date.today()", "date"),
        ("pd.Timestamp.now()", "date"), ("from time import time", "date"), ("np.datetime64('now')", "date"),
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(code: str, what: str) -> None:
    assert what in list(reads(ast.parse(code)))


def test_durations_are_no_dates() -> None:
    assert not list(reads(ast.parse("perf_counter(); time.perf_counter(); clock.now_us(); time.sleep(1); x.time_us")))
