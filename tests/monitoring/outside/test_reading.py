"""Reading a log: files of many kinds give one table; what is missing is said by file, column and fix."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from infra.errors import ExplainedError
from monitoring.outside.files import files
from monitoring.outside.mapping import LogMapping
from monitoring.outside.reading import read_log, read_offline, same_types

MAPPING = LogMapping("id", "at", "p", label="clicked", item="ad", categorical=("device",), numeric=("price",))
T = 1_772_000_000


def table(n: int = 4, **more: object) -> pa.Table:
    columns = {
        "id": [f"i{k}" for k in range(n)], "at": [T + k for k in range(n)], "p": [0.1] * n,
        "clicked": [k % 2 for k in range(n)], "ad": list(range(n)), "device": ["phone"] * n,
        "price": [1.5] * n, "ignored": ["x"] * n,
    }  # fmt: skip
    return pa.table({**columns, **more})


def csv(given: pa.Table, path: Path) -> Path:
    pyarrow.csv.write_csv(given, path)
    return path


def parquet(given: pa.Table, path: Path) -> Path:
    pq.write_table(given, path)
    return path


def test_csv_and_parquet_give_the_same_table(tmp_path: Path) -> None:
    one = read_log([str(csv(table(), tmp_path / "a.csv"))], MAPPING, "window", whole=False)
    other = read_log([str(parquet(table(), tmp_path / "a.parquet"))], MAPPING, "window", whole=False)
    assert one.table.equals(other.table)
    assert one.table.column_names == ["id", "time", "p", "label", "item", "f_device", "f_price"]
    assert one.table["time"].to_pylist() == [(T + k) * 10**6 for k in range(4)]


def test_files_folders_patterns_and_lists_are_found_in_order(tmp_path: Path) -> None:
    (tmp_path / "days").mkdir()
    a, b = csv(table(), tmp_path / "days" / "a.csv"), parquet(table(), tmp_path / "days" / "b.parquet")
    (tmp_path / "days" / "_SUCCESS").touch()
    assert files([str(tmp_path / "days")]) == files([f"{a},{b}"]) == files([str(tmp_path / "days" / "*")]) == [a, b]
    with pytest.raises(ExplainedError, match=r"no such file or folder; in .* there are days"):
        files([str(tmp_path / "dayz")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExplainedError, match="holds no parquet and no CSV file"):
        files([str(tmp_path / "empty")])
    (tmp_path / "log.xlsx").touch()
    with pytest.raises(ExplainedError, match="only parquet and CSV"):
        files([str(tmp_path / "log.xlsx")])


def test_rows_come_in_order_of_time_whatever_the_files_hold(tmp_path: Path) -> None:
    late = csv(table(3, at=[T + 50, T + 40, T + 60]), tmp_path / "a.csv")
    early = parquet(table(2, ad=["x", "y"]), tmp_path / "b.parquet")
    log = read_log([str(late), str(early)], MAPPING, "reference", whole=True)
    assert log.table["time"].to_pylist() == sorted(log.table["time"].to_pylist())
    assert log.table["item"].type == pa.string()  # integers in one, text in the other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.rename_columns(["id", "at", "p_click", *t.column_names[3:]]), "no column 'p' (mapped as prediction)"),
        (lambda t: t.rename_columns([*t.column_names[:6], "prize", "ignored"]), "no column 'price' (mapped as numeric) "
         "(did you mean 'prize'?)"),
        (lambda t: t.drop_columns(["clicked"]), "no column 'clicked' (mapped as label)"),
        (lambda t: t.set_column(2, "p", pa.array([3.0, -2.0, 4.0, 5.0])), "lie outside 0 to 1"),
        (lambda t: t.set_column(1, "at", pa.array(["soon"] * 4)), "no row of column 'at' holds a time"),
        (lambda t: t.set_column(6, "price", pa.array([[1]] * 4)), "column 'price' can't be read as numeric"),
        (lambda t: t.slice(0, 0), "holds no rows"),
    ],
)  # fmt: skip
def test_a_reference_that_cannot_be_used_is_explained(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    path = parquet(change(table()), tmp_path / "a.parquet")
    with pytest.raises(ExplainedError) as error:
        read_log([str(path)], MAPPING, "reference", whole=True)
    assert said in str(error.value)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"junk")
    with pytest.raises(ExplainedError, match=r"a\.parquet can't be read"):
        read_log([str(tmp_path / "a.parquet")], MAPPING, "window", whole=False)


def test_a_window_may_lack_labels_and_a_lost_feature_is_a_broken_contract(tmp_path: Path) -> None:
    path = csv(table().drop_columns(["clicked", "price"]), tmp_path / "a.csv")
    log = read_log([str(path)], MAPPING, "window", whole=False)
    assert log.missing == ["label", "price"]
    assert log.refused == {("price", "column is missing"): 4}
    assert log.table["f_price"].null_count == 4
    assert "label" not in log.table.column_names


def test_what_cannot_be_read_in_a_row_is_null_and_counted(tmp_path: Path) -> None:
    bad = table(4, price=["1", "2 EUR", "3", "4"], clicked=["yes", "no", "perhaps", "no"], at=[f"{T}", "", "soon", f"{T + 1}"])
    log = read_log([str(csv(bad, tmp_path / "a.csv"))], MAPPING, "window", whole=False)
    assert log.refused == {("price", "is no number"): 1, ("clicked", "is neither 0 nor 1"): 1, ("at", "is missing"): 1,
                           ("at", "is no time"): 1}  # fmt: skip
    assert log.rows == 2


def test_a_recomputation_needs_ids_and_some_feature(tmp_path: Path) -> None:
    log = read_offline([str(csv(table().select(["id", "price"]), tmp_path / "a.csv"))], MAPPING)
    assert log.table.column_names == ["id", "f_price"]
    with pytest.raises(ExplainedError, match="no column 'id'"):
        read_offline([str(csv(table().select(["price"]), tmp_path / "b.csv"))], MAPPING)
    with pytest.raises(ExplainedError, match="none of the mapped features"):
        read_offline([str(csv(table().select(["id", "p"]), tmp_path / "c.csv"))], MAPPING)


def test_logs_whose_types_differ_are_made_comparable(tmp_path: Path) -> None:
    one = read_log([str(parquet(table(ad=[1, 2, 3, 4]), tmp_path / "a.parquet"))], MAPPING, "reference", whole=True)
    two = read_log([str(parquet(table(ad=["1", "2", "new", "4"]), tmp_path / "b.parquet"))], MAPPING, "window", whole=False)
    same_types([one, two])
    assert one.table["item"].to_pylist() == ["1", "2", "3", "4"]
    assert two.table["item"].type == pa.string()
