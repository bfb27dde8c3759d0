"""Training exports for the gate's table: good ones as teams really make them, and bad ones made from them by a bug.

A `Site` is one world with everything that exports of it share.  Good exports differ in days, users, size, order of rows and
columns; some have new features of honest strength or lack old ones.  Called by `pipelines.gauntlet.gate`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features import snapshots
from features.catalogue import view
from features.ids import uniform
from infra import branch
from infra.clock import DAY_US, HOUR_US
from infra.home import Home
from infra.lake import watermark_us
from models.contract import Array, Dataset
from monitoring.bugs.entry import Bug, Scene
from monitoring.gate.auc import AucTable, auc_by_day
from monitoring.gate.audit import Account
from monitoring.gate.columns import I64, Scope, codes, concatenate
from monitoring.gate.ledger import Ledger
from monitoring.gate.rebuild import Rebuilt
from monitoring.gate.together import standardised
from pipelines.ingest import ingest_all
from pipelines.materialize import materialize_all
from pipelines.sources.contract import SourceSpec
from pipelines.sources.world.config import WorldConfig
from pipelines.sources.world.source import WorldSource
from pipelines.training import SERVICE
from pipelines.training_set import Window, build
from pipelines.truth import true_probability

ATTRIBUTION_HOURS = 24.0
FEATURE_DAYS = 5  # of a world, which only fill counters
PARTS = ("train", "valid", "calibrate", "test")
FEWEST_ROWS, MOST_ROWS = 4_500, 40_000
FEWEST_CLICKS = 200  # of an export that still says something


@dataclass(frozen=True, slots=True)
class Export:
    """What the audit gets, and nothing else: an export, what it was asked to hold, and what is known beside it."""

    parts: Mapping[str, Dataset]
    scope: Scope
    reference: AucTable | None
    account: Account
    slow: Sequence[str]


@dataclass(frozen=True, slots=True)
class Site:
    """One world's home, its mature impressions with features, and the store's own account of them."""

    home: Home
    spec: SourceSpec
    rows: Dataset
    ledger: Ledger
    size: str

    @classmethod
    def make(cls, folder: Path, config: WorldConfig) -> "Site":
        """A world made from nothing."""
        world, home = WorldSource(config), Home(folder / f"{config.size}-{config.seed}")
        world.deliver(home, progress=False)
        ingest_all(home, world.spec, progress=False)
        materialize_all(home, world.spec, progress=False)
        span = (config.first_day_us + FEATURE_DAYS * DAY_US, config.end_us - DAY_US)
        return cls.open(home, world.spec, span, None, config.size)

    @classmethod
    def open(cls, home: Home, spec: SourceSpec, span: tuple[int, int], rebuilt: Rebuilt | None, size: str) -> "Site":
        """A home, or a branch of one; `rebuilt` saves doing again what raw events alone decide."""
        as_of_us, window_us = watermark_us(home), int(ATTRIBUTION_HOURS * HOUR_US)
        rows = build(home, spec, Window(*span), as_of_us, ATTRIBUTION_HOURS, SERVICE).data
        ledger = Ledger(home, spec.entities, spec.context, SERVICE, span, as_of_us, window_us, rebuilt)
        return cls(home, spec, rows, ledger, size)

    def broken(self, bug: Bug, dose: float, seed: int, span: tuple[int, int]) -> "Site":
        """A branch of this site whose feature rows a bug rewrote from the span's first day on; drop it with `close`."""
        work = branch.create(self.home, f"gate-{bug.code.lower()}-{seed}")
        first = str(np.datetime64(span[0] - DAY_US, "us").astype("datetime64[D]"))
        for name in bug.tables:
            for day in (day for day in snapshots.days(work, name) if day >= first):
                with snapshots.manifest_path(work, name, day).open("rb") as file:
                    manifest = pq.read_table(file)
                rows = bug.inject(snapshots.read(work, name, day), dose, Scene(name, seed, span[0] - DAY_US))
                snapshots.write(work, view(name), day, rows, manifest)
        return Site.open(work, self.spec, span, self.ledger.rebuilt, self.size)

    def close(self) -> None:
        """Remove a branch."""
        branch.drop(self.home)


@dataclass(frozen=True)
class Draw:
    """One way to cut an export out of a site, drawn at random."""

    site: Site
    scope: Scope
    seed: int
    changes: tuple[str, ...]
    reference: Scope | None  # of the set accepted before

    @classmethod
    def of(cls, site: Site, rng: np.random.Generator) -> "Draw":
        """Days, users and changes for an export of some 5 to 40 thousand rows."""
        scope = _filled(site, rng, share=None)
        changed = rng.random() < 0.5
        changes = tuple(sorted(rng.choice(list(CHANGES), int(rng.integers(1, 3)), replace=False).tolist())) if changed else ()
        before = _filled(site, rng, share=scope.share) if rng.random() < 0.7 else None
        return cls(site, scope, int(rng.integers(2**31)), changes, before)

    @cached_property
    def parts(self) -> dict[str, Dataset]:
        """The export's parts in order of time."""
        rows = self.site.rows.take(self.scope.holds(self.site.rows.time_us, self.site.rows.group))
        rng = np.random.default_rng(self.seed)
        for name in self.changes:
            rows = CHANGES[name](self.site, rows, rng)
        return {
            name: rows.take(np.flatnonzero((rows.time_us >= first) & (rows.time_us < end)))
            for name, (first, end) in self.scope.windows.items()
        }

    def history(self) -> AucTable | None:
        """The AUC table of the set accepted before."""
        if self.reference is None:
            return None
        return auc_by_day(self.site.rows.take(self.reference.holds(self.site.rows.time_us, self.site.rows.group)))

    def export(self, parts: Mapping[str, Dataset] | None = None, of: Site | None = None) -> Export:
        """What the audit gets of this draw, with other parts or another site's account where a bug was there."""
        ledger = (of or self.site).ledger
        return Export(parts or self.parts, self.scope, self.history(), ledger.account, ledger.slow)


def _filled(site: Site, rng: np.random.Generator, share: float | None) -> Scope:
    """A scope that holds neither too few nor too many rows and clicks."""
    while True:
        scope = _scope(site, rng, share)
        held = scope.holds(site.rows.time_us, site.rows.group)
        if FEWEST_ROWS <= held.sum() <= MOST_ROWS and site.rows.label[held].sum() >= FEWEST_CLICKS:
            return scope


def _scope(site: Site, rng: np.random.Generator, share: float | None) -> Scope:
    """Days of train, valid, calibrate and test one after the other, and a share of users."""
    first, end = site.ledger.span
    days = (end - first) // DAY_US
    spans = [int(rng.integers(2, max(days - 3, 3))), 1, 1, int(rng.integers(1, 3))]
    while sum(spans) > days:
        spans[0 if spans[0] > 2 else 3] -= 1
    at = first + int(rng.integers(0, days - sum(spans) + 1)) * DAY_US
    windows: dict[str, tuple[int, int]] = {}
    for name, length in zip(PARTS, spans, strict=True):
        windows[name] = (at, at + length * DAY_US)
        at += length * DAY_US
    if share is None:
        rows = len(site.rows) * sum(spans) / days
        share = min(1.0, float(np.exp(rng.uniform(np.log(5_000), np.log(MOST_ROWS)))) / rows)
    return Scope(windows, share, int(rng.integers(1000)))


Change = Callable[[Site, Dataset, np.random.Generator], Dataset]


def _with(rows: Dataset, name: str, values: Array) -> Dataset:
    return replace(rows, columns={**rows.columns, name: values})


def _numbers(rows: Dataset) -> dict[str, Array]:
    return {name: values for name, values in rows.columns.items() if values.ndim == 1 and values.dtype.kind == "f"}


def _noise(site: Site, rows: Dataset, rng: np.random.Generator) -> Dataset:
    """A feature that says nothing."""
    return _with(rows, "new_noise", rng.normal(size=len(rows)).astype(np.float32))


def _mixture(site: Site, rows: Dataset, rng: np.random.Generator) -> Dataset:
    """A feature made of three others, some of it unknown."""
    numbers = _numbers(rows)
    table = standardised([numbers[name] for name in rng.choice(sorted(numbers), 3, replace=False)])
    values = table @ rng.normal(size=3) + 0.5 * rng.normal(size=len(rows))
    values[rng.random(len(rows)) < 0.1] = np.nan
    return _with(rows, "new_mixture", values.astype(np.float32))


def _older_model(site: Site, rows: Dataset, rng: np.random.Generator) -> Dataset:
    """The score of a linear model fitted on the days before: the strongest honest feature there is."""
    before = site.rows.take(np.flatnonzero(site.rows.time_us < rows.time_us.min()))
    if len(before) < 5_000:
        return _mixture(site, rows, rng)
    names = sorted(_numbers(rows).keys() & _numbers(before).keys())
    whole = concatenate([_only(before, names), _only(rows, names)])
    table = standardised([whole.columns[name] for name in names])
    past = table[: len(before)]
    weights = np.linalg.solve(
        past.T @ past + 0.001 * len(past) * np.eye(len(names)), past.T @ (before.label - before.label.mean())
    )
    return _with(rows, "older_score", (table[len(before) :] @ weights).astype(np.float32))


def _only(rows: Dataset, names: Sequence[str]) -> Dataset:
    return replace(rows, columns={name: rows.columns[name] for name in names})


def _encoding(site: Site, rows: Dataset, rng: np.random.Generator) -> Dataset:
    """Click rate of the row's ad or user in the other folds: a target encoding as it should be made."""
    key = str(rng.choice(["ad_id", "user_id", "campaign_id", "advertiser_id"]))
    code = codes(rows.columns[key])
    fold = (uniform(rows.row_id, int(rng.integers(1000))) * 5).astype(np.int64)
    size, prior = int(code.max()) + 1, float(rows.label.mean())
    shown, clicked = np.bincount(code, minlength=size), np.bincount(code, rows.label, size)
    values = np.empty(len(rows), np.float32)
    for one in range(5):
        mine = fold == one
        n = shown - np.bincount(code[mine], minlength=size)
        c = clicked - np.bincount(code[mine], rows.label[mine], size)
        values[mine] = ((c + 20 * prior) / (n + 20))[code[mine]]
    return _with(rows, f"{key}_rate_out_of_fold", values)


def _novel(site: Site, rows: Dataset, rng: np.random.Generator) -> Dataset:
    """A new signal, known before the click, that no other column holds: part of what truly decides, under much noise."""
    p = true_probability(site.home, rows.row_id, rows.time_us)
    logit = np.log(p / (1 - p))
    noise = rng.normal(size=len(rows)) * rng.uniform(2.0, 4.0) * logit.std()
    return _with(rows, "new_signal", (logit + noise).astype(np.float32))


def _bucket(site: Site, rows: Dataset, rng: np.random.Generator) -> Dataset:
    """A new category: hashed ads."""
    return _with(rows, "ad_bucket", (uniform(rows.columns["ad_id"], 77) * 50).astype(np.int64))


def _fewer(site: Site, rows: Dataset, rng: np.random.Generator) -> Dataset:
    """A set without some of its columns."""
    gone = set(rng.choice(sorted(_numbers(rows)), 5, replace=False).tolist())
    return replace(rows, columns={name: values for name, values in rows.columns.items() if name not in gone})


def _shuffled(site: Site, rows: Dataset, rng: np.random.Generator) -> Dataset:
    """Rows in another order within each part."""
    return rows.take(rng.permutation(len(rows)))


CHANGES: Mapping[str, Change] = {
    "noise": _noise, "novel": _novel, "mixture": _mixture, "older-model": _older_model, "encoding": _encoding,
    "bucket": _bucket, "fewer": _fewer, "shuffled": _shuffled,
}  # fmt: skip


def as_table(parts: Mapping[str, Dataset]) -> pa.Table:
    """An export as the stage `training` gets it (`monitoring.bugs.entry`), parts in order."""
    whole = concatenate(list(parts.values()))
    words = np.repeat(np.array(list(parts), np.str_), [len(part) for part in parts.values()])
    columns: dict[str, pa.Array] = {
        "row_id": pa.array(whole.row_id), "time_us": pa.array(whole.time_us), "group": pa.array(whole.group),
        "slot": pa.array(whole.slot), "label": pa.array(whole.label), "part": pa.array(words),
    }  # fmt: skip
    for name, values in whole.columns.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        columns[name] = flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table(columns)


def as_parts(table: pa.Table) -> dict[str, Dataset]:
    """The parts of an export that a bug may have rewritten."""
    word = np.asarray(table["part"].to_pylist(), np.str_)
    own = ("row_id", "time_us", "group", "slot", "label", "part")
    columns = {name: _values(table[name]) for name in table.column_names if name not in own}
    ids: dict[str, I64] = {name: table[name].cast(pa.int64()).to_numpy() for name in own[:5]}
    whole = Dataset(columns, ids["label"].astype(np.uint8), ids["slot"].astype(np.int16), ids["time_us"], ids["group"],
                    ids["row_id"], np.zeros(table.num_rows, np.bool_))  # fmt: skip
    names = [*PARTS, *sorted(set(word.tolist()) - set(PARTS))]
    return {name: whole.take(np.flatnonzero(word == name)) for name in names if (word == name).any()}


def _values(column: pa.ChunkedArray) -> Array:
    kind = column.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False)).reshape(len(column), -1)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.asarray(column.fill_null("").to_pylist(), np.str_)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    if pa.types.is_floating(kind):
        return np.asarray(column.fill_null(np.nan).cast(pa.float32()).to_numpy())
    return np.asarray(column.fill_null(-1).cast(pa.int64()).to_numpy())
