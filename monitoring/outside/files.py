"""Which files a log is made of, and their columns as Arrow: parquet, or CSV as text.  The one place here that opens files."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from infra.errors import ExplainedError

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>", "NaT"]


def files(given: Iterable[str]) -> list[Path]:
    """Parquet and CSV files behind paths, folders, patterns and comma-separated lists of them, in order of name.

    ExplainedError for a path that is not there and for a folder without such files.
    """
    found: list[Path] = []
    for entry in given:
        for part in [entry] if Path(entry).exists() else entry.split(","):
            found += _behind(part.strip())
    return list(dict.fromkeys(found))


def _behind(part: str) -> list[Path]:
    path = Path(part)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".", "_")) and _kind(p))
        if not inside:
            raise ExplainedError(f"{path} holds no parquet and no CSV file; name the folder that does, or the files")
        return inside
    if path.is_file():
        if not _kind(path):
            raise ExplainedError(f"{path}: only parquet and CSV can be read ({', '.join((*PARQUET, *CSV))}); convert it first")
        return [path]
    matched = [Path(name) for name in sorted(glob.glob(part)) if _kind(Path(name))]
    if not matched:
        near = f"; in {path.parent} there are {_few(path.parent)}" if path.parent.is_dir() else ""
        raise ExplainedError(f"{part}: no such file or folder{near}")
    return matched


def _few(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    return (", ".join(names[:8]) or "no files") + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _kind(path: Path) -> str:
    name = path.name.lower()
    return "parquet" if name.endswith(PARQUET) else "csv" if name.endswith(CSV) else ""


def column_names(path: Path) -> list[str]:
    """The columns of a file; ExplainedError where it is damaged or empty."""
    try:
        if _kind(path) == "parquet":
            return list(pq.read_schema(path).names)
        with pc_csv.open_csv(path, parse_options=_parsing(path)) as reader:
            return list(reader.schema.names)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from None


def read(path: Path, names: Sequence[str]) -> pa.Table:
    """Some columns of a file; those of a CSV as text, null where empty."""
    try:
        if _kind(path) == "parquet":
            with pq.ParquetFile(path) as file:
                return file.read(columns=list(names))
        options = pc_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=list(names),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=NULLS,
        )
        return pc_csv.read_csv(path, parse_options=_parsing(path), convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ExplainedError:
    return ExplainedError(f"{path} can't be read: {' '.join(str(error).split())}; write the file again, or leave it out")


def _parsing(path: Path) -> pc_csv.ParseOptions:
    """The delimiter that the first line has most of."""
    with pa.input_stream(str(path), compression="detect") as stream:
        head = stream.read(65_536).split(b"\n", 1)[0]
    delimiter = max((",", "\t", ";", "|"), key=lambda d: head.count(d.encode()))
    return pc_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
