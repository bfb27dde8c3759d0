"""Files as they arrived: which days and files there are under `home.landing`, and reading one whatever state it is in.

Called by ingestion.  A file that cannot be read raises `UnreadableFile` with the reason and the fix; it is never read in part,
so a transfer that was cut off cannot pass for a quiet day.
"""

import csv
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from infra.errors import ExplainedError
from infra.home import Home

_DAY = re.compile(r"day=\d{4}-\d{2}-\d{2}")


class UnreadableFile(ValueError):
    """A landed file is empty, cut off, or not of a format that is read here."""


def days(home: Home, streams: Iterable[str]) -> list[str]:
    """Days that any of the streams has a folder for, in order; ExplainedError for a folder whose name is no day."""
    folders = [path for stream in streams for path in (home.landing / stream).glob("day=*")]
    for folder in folders:
        if not _DAY.fullmatch(folder.name):
            raise ExplainedError(f"{folder}: not a day; name it day=YYYY-MM-DD")
    return sorted({folder.name.removeprefix("day=") for folder in folders})


def files(home: Home, stream: str, day: str) -> list[Path]:
    """A stream's files of a day, by name; those named .x, _x or x.tmp are still being written and left alone."""
    found = (home.landing / stream / f"day={day}").glob("*")
    return sorted(f for f in found if f.is_file() and not f.name.startswith((".", "_")) and f.suffix != ".tmp")


def content_hash(path: Path) -> str:
    """BLAKE2b of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read(path: Path) -> pa.Table:
    """A file's rows: parquet with its own types, CSV (commas, a header) with every column as bytes to be parsed."""
    if path.suffix not in (".parquet", ".csv"):
        raise UnreadableFile(
            f"{path.suffix or 'a file without suffix'} is not read here; deliver .parquet, or .csv with a header"
        )
    if path.stat().st_size == 0:
        raise UnreadableFile("the file is empty; deliver it again, or remove it if nothing happened")
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read() if path.suffix == ".parquet" else _read_csv(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UnreadableFile(f"it is not a whole {path.suffix[1:]} file ({first_line}); deliver it again") from error


def _read_csv(path: Path) -> pa.Table:
    with path.open("rb") as file:
        names = next(csv.reader([file.readline().decode("utf-8-sig")]))
    convert = pcsv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()))
    return pcsv.read_csv(path, convert_options=convert, parse_options=pcsv.ParseOptions(newlines_in_values=True))
