"""An outside log as a table with the columns of `monitoring.window`, whatever its files hold.

What cannot be read row by row (text where a number should be, a label that is neither 0 nor 1) becomes null and is counted,
as a broken contract; what makes the whole log unusable is an ExplainedError that names file, column and fix.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import ExplainedError
from monitoring.outside import files, values
from monitoring.outside.mapping import REQUIRED, LogMapping, nearest

NAMES = {"id": "id", "time": "time", "prediction": "p", "label": "label", "model_version": "model", "arm": "arm",
         "user": "user", "item": "item"}  # fmt: skip
MISSING, ELSEWHEN = "is missing", "lies outside the log's days"
NOT_PROBABLE = 0.01  # share of a reference's predictions outside [0, 1] above which they are no probabilities at all


@dataclass(slots=True)
class Log:
    """What was read."""

    table: pa.Table  # id, time, p, ... and f_NAME, in order of time
    files: list[Path]
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)  # (column, rule) -> rows that broke it
    missing: list[str] = field(default_factory=list)  # roles and features that were mapped and are not there
    said: list[str] = field(default_factory=list)  # what was detected

    @property
    def rows(self) -> int:
        """Rows read."""
        return int(self.table.num_rows)


def rules(mapping: LogMapping) -> list[tuple[str, str]]:
    """(column, rule) of what every log is held to, whether a row broke it or not."""
    held = [(name, _RULES[role]) for role, name in mapping.roles().items() if role in _RULES]
    return [(mapping.id, MISSING), (mapping.time, MISSING), (mapping.time, ELSEWHEN), *held]


def read_log(given: Iterable[str], mapping: LogMapping, what: str, whole: bool) -> Log:
    """The log behind paths; `what` it is called in errors.

    `whole`: every mapped column must be there (a reference); otherwise only the first three, and a feature that is missing is
    nulls and a broken contract.
    """
    found = files.files(given)
    wanted = mapping.roles()
    there = {path: files.column_names(path) for path in found}
    _check_columns(there, wanted, mapping, what, whole)
    parts = [part for path in found if (part := _read(path, there[path], wanted, mapping)) is not None]
    if not parts:
        raise ExplainedError(f"{what} ({', '.join(map(str, found[:3]))}) holds no rows; name files with some")
    log = Log(_together([part.table for part in parts]), found)
    for part in parts:
        log.refused.update(part.refused)
        log.said += [said for said in part.said if said not in log.said]
    log.missing = sorted({name for part in parts for name in part.missing})
    _check_predictions(log, mapping, what, whole)
    return log


def read_offline(given: Iterable[str], mapping: LogMapping) -> Log:
    """A recomputation: its ids and those of the mapped features that it has, columns id and f_NAME."""
    found = files.files(given)
    tables = []
    for path in found:
        there = files.column_names(path)
        names = [name for name in mapping.features if name in there]
        if mapping.id not in there:
            raise _no_column(path, mapping.id, "id", there, "a recomputation is matched to the log by it")
        if not names:
            raise ExplainedError(
                f"{path}: none of the mapped features is there ({', '.join(mapping.features[:6])}); it has {', '.join(there)}"
            )
        table = files.read(path, [mapping.id, *names])
        columns = {"id": values.categories(table[mapping.id])}
        columns |= {f"f_{name}": _feature(table[name], name, mapping, path).values for name in names}
        tables.append(pa.table(columns))
    return Log(_together(tables), found)


def _check_columns(there: dict[Path, list[str]], wanted: dict[str, str], mapping: LogMapping, what: str, whole: bool) -> None:
    """ExplainedError for the first column that must be there and is not."""
    every = list(dict.fromkeys(name for names in there.values() for name in names))
    for role, name in wanted.items():
        for path, names in there.items():
            if role in REQUIRED and name not in names:
                raise _no_column(path, name, role, names, f"every file of the {what} needs it")
        if whole and name not in every:
            raise _no_column(next(iter(there)), name, role, every, f"correct the mapping, or take {role} out of it")
    for kind, listed in (("categorical", mapping.categorical), ("numeric", mapping.numeric)):
        for name in listed:
            if whole and name not in every:
                raise _no_column(next(iter(there)), name, kind, every, "correct the mapping, or take the column out of it")


def _no_column(path: Path, name: str, role: str, there: Sequence[str], fix: str) -> ExplainedError:
    columns = ", ".join(there)
    return ExplainedError(f"{path}: no column {name!r} (mapped as {role}){nearest(name, there)}; it has {columns}. {fix}")


def _read(path: Path, there: Sequence[str], wanted: dict[str, str], mapping: LogMapping) -> Log | None:
    singles = {role: name for role, name in wanted.items() if name in there}
    features = [name for name in mapping.features if name in there]
    raw = files.read(path, list(dict.fromkeys([*singles.values(), *features])))
    if raw.num_rows == 0:
        return None
    log = Log(raw, [path])
    columns: dict[str, pa.Array] = {}
    for role, name in singles.items():
        read = _typed(_READERS[role], raw[name], path, name, role)
        columns[NAMES[role]] = read.values
        _count(log, name, _RULES.get(role, ""), read.bad)
        if role == "time" and read.said:
            log.said.append(f"{name}: {read.said}")
        if role in ("id", "time"):  # a prediction that is missing is a symptom by itself
            _count(log, name, MISSING, int(raw[name].null_count))
    for name in features:
        read = _feature(raw[name], name, mapping, path)
        columns[f"f_{name}"] = read.values
        _count(log, name, "is no number", read.bad)
    for name in mapping.features:
        if name not in there:
            numeric = name in mapping.numeric
            columns[f"f_{name}"] = pa.nulls(raw.num_rows, pa.float64() if numeric else pa.string())
            _count(log, name, "column is missing", raw.num_rows)
            log.missing.append(name)
    log.missing += [role for role in wanted if role not in singles]
    table = pa.table(columns)
    log.table = table.filter(pc.is_valid(table["time"]))
    return log


def _count(log: Log, column: str, rule: str, rows: int) -> None:
    if rows:
        log.refused[column, rule] += rows


def _typed(
    read: Callable[[values.Column], values.Read], column: values.Column, path: Path, name: str, role: str
) -> values.Read:
    try:
        return read(column)
    except (TypeError, pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise ExplainedError(f"{path}: column {name!r} can't be read as {role}: {error}; correct the mapping") from None


def _feature(column: values.Column, name: str, mapping: LogMapping, path: Path) -> values.Read:
    if name in mapping.numeric:
        return _typed(values.numbers, column, path, name, "numeric")
    return _typed(lambda c: values.Read(values.categories(c)), column, path, name, "categorical")


_READERS: dict[str, Callable[[values.Column], values.Read]] = {
    "id": lambda column: values.Read(values.categories(column)),
    "time": values.times,
    "prediction": values.numbers,
    "label": values.labels,
    "model_version": lambda column: values.Read(values.texts(column)),
    "arm": lambda column: values.Read(values.texts(column)),
    "user": lambda column: values.Read(values.categories(column)),
    "item": lambda column: values.Read(values.categories(column)),
}
_RULES = {"time": "is no time", "prediction": "is no number", "label": "is neither 0 nor 1"}


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of one log, one below the other: columns that are integers in one and text in another become text."""
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for each in table.schema:
            kinds.setdefault(each.name, set()).add(each.type)
    unified = [
        _cast(table, {name: next(iter(k)) if len(k) == 1 else pa.string() for name, k in kinds.items()}) for table in tables
    ]
    together = pa.concat_tables(unified, promote_options="default").combine_chunks()
    return together.sort_by("time") if "time" in together.column_names else together


def _cast(table: pa.Table, kinds: dict[str, pa.DataType]) -> pa.Table:
    columns = {n: table[n] if table[n].type == kinds[n] else pc.cast(table[n], kinds[n]) for n in table.column_names}
    return pa.table(columns)


def same_types(logs: Sequence[Log]) -> None:
    """Give ids, users, items and categories one type in all logs; counts values of another kind than the first log's."""
    first = logs[0]
    for name in first.table.column_names:
        kinds = {log.table[name].type for log in logs if name in log.table.column_names}
        if len(kinds) == 1:
            continue
        for log in logs:
            if name in log.table.column_names and log.table[name].type != pa.string():
                place = log.table.column_names.index(name)
                log.table = log.table.set_column(place, name, pc.cast(log.table[name], pa.string()))


def _check_predictions(log: Log, mapping: LogMapping, what: str, whole: bool) -> None:
    if log.rows == 0:
        raise ExplainedError(
            f"{what}: no row of column {mapping.time!r} holds a time; timestamps, ISO 8601 or epoch numbers do"
        )
    p = log.table["p"]
    outside = int(pc.sum(pc.or_(pc.less(p, 0.0), pc.greater(p, 1.0))).as_py() or 0)
    if whole and outside > NOT_PROBABLE * log.rows:
        raise ExplainedError(
            f"{what}: {outside:,} of {log.rows:,} values of {mapping.prediction!r} lie outside 0 to 1; it must be the "
            "predicted probability (not a score, a logit or a percentage): map the column that is, or convert it"
        )
