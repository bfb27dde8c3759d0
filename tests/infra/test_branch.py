"""Branches: full copies that cost little, and no way to write through one into the base."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from infra import branch
from infra.errors import ExplainedError
from infra.home import Home, ReadOnlyHome
from infra.lake import Lake
from infra.settings import Settings, use


def rows(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "day": pa.array(["2026-01-05"] * len(ids), pa.string())})


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def base(tmp_path: Path) -> Home:
    """A home with one thing of each kind."""
    home = Home(tmp_path / "base")
    Lake.of(home).append("clicks", rows(1, 2), ("log", 1))
    DeltaTable(home.lake / "clicks").create_checkpoint()
    for path in (home.features / "user_daily/day=2026-01-05.parquet", home.landing / "clicks/day=2026-01-05/part-0.parquet"):
        pq.write_table(rows(3), home.writing(path))
    for path in (home.online, home.mlflow / "mlflow.db"):
        with closing(sqlite3.connect(home.writing(path))) as db, db:
            db.execute("CREATE TABLE run (id INTEGER, artifact_uri VARCHAR(200))")
            db.execute("INSERT INTO run VALUES (1, ?)", (f"file://{home.mlflow}/1",))
    put(home.artefacts / "abc/artefact.json", "{}")
    put(home.log / "segment-0.bin", "one")
    return home


def test_a_branch_holds_what_the_base_holds(base: Home) -> None:
    drill = branch.create(base, "drill")
    assert drill == Home(base.root / "branches/drill")
    assert Lake.of(drill).read("clicks").equals(Lake.of(base).read("clicks"))
    assert Lake.of(drill).versions() == Lake.of(base).versions() == {"clicks": 0}
    assert Lake.of(drill).committed("clicks", "log") == 1
    with closing(sqlite3.connect(drill.online)) as db:
        assert db.execute("SELECT id FROM run").fetchall() == [(1,)]
    assert (drill.log / "segment-0.bin").read_text() == "one"
    assert (drill.artefacts / "abc/artefact.json").read_text() == "{}"
    assert not drill.branches.exists()


def test_tables_cost_no_space_and_mutable_files_are_copies(base: Home) -> None:
    drill = branch.create(base, "drill")
    for path in sorted(base.lake.rglob("*.parquet")) + sorted(base.features.rglob("*.parquet")):
        assert os.path.samefile(path, drill.root / path.relative_to(base.root))
    for path in (base.online, base.mlflow / "mlflow.db", base.log / "segment-0.bin", base.artefacts / "abc/artefact.json"):
        assert not os.path.samefile(path, drill.root / path.relative_to(base.root))


def append(home: Home) -> None:
    Lake.of(home).append("clicks", rows(9), ("log", 2))


def replace_day(home: Home) -> None:
    Lake.of(home).replace_day("clicks", "2026-01-05", rows(9))


def checkpoint(home: Home) -> None:
    last = home.lake / "clicks/_delta_log/_last_checkpoint"
    before = last.read_text()
    append(home)
    DeltaTable(home.lake / "clicks").create_checkpoint()  # every 100 commits by itself
    assert last.read_text() != before


def replace_file(home: Home) -> None:
    for path in (home.features / "user_daily/day=2026-01-05.parquet", home.landing / "clicks/day=2026-01-05/part-0.parquet"):
        pq.write_table(rows(9), path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)


def update_sqlite(home: Home) -> None:
    for path in (home.online, home.mlflow / "mlflow.db"):
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("UPDATE run SET id = 9")


def append_to_log(home: Home) -> None:
    with (home.log / "segment-0.bin").open("a") as file:
        file.write("two")


def overwrite_model(home: Home) -> None:
    (home.artefacts / "abc/artefact.json").write_text("broken")


def drop_it(home: Home) -> None:
    branch.drop(home)
    assert not home.root.exists()


WRITES = [append, replace_day, checkpoint, replace_file, update_sqlite, append_to_log, overwrite_model, drop_it]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_no_write_to_a_branch_reaches_the_base(base: Home, write: Callable[[Home], None]) -> None:
    before = branch.fingerprint(base)
    drill = branch.create(Home(base.root, writable=False), "drill")
    in_branch = branch.fingerprint(drill)
    write(drill)
    assert branch.fingerprint(base) == before
    assert not drill.root.exists() or branch.fingerprint(drill) != in_branch


@pytest.mark.parametrize("write", WRITES[:-1], ids=lambda write: write.__name__)
def test_the_fingerprint_sees_every_kind_of_write(base: Home, write: Callable[[Home], None]) -> None:
    before = branch.fingerprint(base)
    write(base)
    assert branch.fingerprint(base) != before


def test_the_base_opened_by_a_drill_refuses_writes(base: Home) -> None:
    closed = Home(base.root, writable=False)
    for write in (append, replace_day):
        with pytest.raises(ReadOnlyHome):
            write(closed)
    with pytest.raises(ReadOnlyHome):
        closed.writing(closed.log / "segment-1.bin")


def test_a_database_being_written_is_copied_whole(base: Home) -> None:
    with closing(sqlite3.connect(base.online)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        with writer:
            writer.execute("UPDATE run SET id = 2")
        writer.execute("UPDATE run SET id = 3")  # not committed
        drill = branch.create(base, "drill")
        writer.rollback()
    with closing(sqlite3.connect(drill.online)) as db:
        assert db.execute("SELECT id FROM run").fetchall() == [(2,)]


def test_run_artefacts_of_a_branch_lie_in_the_branch(base: Home) -> None:
    drill = branch.create(base, "drill")
    with closing(sqlite3.connect(drill.mlflow / "mlflow.db")) as db:
        assert db.execute("SELECT artifact_uri FROM run").fetchall() == [(f"file://{drill.mlflow}/1",)]


def test_a_lake_behind_a_url_is_downloaded_into_the_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.settings._in_use", [])
    chosen = Settings(home=tmp_path / "state", lake_url=f"file://{tmp_path}/store")
    use(chosen)
    base = chosen.base()
    (tmp_path / "store" / base.root.name).mkdir(parents=True)
    Lake.of(base).append("clicks", rows(1, 2), ("log", 1))
    before = branch.fingerprint(base)
    drill = branch.create(base, "drill")
    append(drill)
    assert Lake.of(drill).read("clicks")["id"].to_pylist() == [1, 2, 9]
    assert Lake.of(drill).committed("clicks", "log") == 2
    assert branch.fingerprint(base) == before
    append(base)
    assert branch.fingerprint(base) != before


def test_names_must_be_free_and_fit_for_a_folder(base: Home) -> None:
    branch.create(base, "drill")
    with pytest.raises(ExplainedError, match="drop it"):
        branch.create(base, "drill")
    for name in ("", "../up", ".hidden", "a/b"):
        with pytest.raises(ValueError):
            branch.create(base, name)


def test_only_branches_can_be_dropped(base: Home) -> None:
    with pytest.raises(ValueError, match="not a branch"):
        branch.drop(base)
    assert base.lake.exists()
