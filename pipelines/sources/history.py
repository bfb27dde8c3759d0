"""Turns an environment into files: runs it under a policy and lands its events by day of arrival, its truth by day of event.

The world's source writes its history with it, and drills continue that history on a branch with another policy or with a
changed stream of requests.  After each day it saves where everything stands, so an interrupted run is completed and a
finished one costs nothing.  Memory holds one day and the events that are still on their way.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.schemas import KEYS, TIME
from infra.clock import DAY_US, day_name
from infra.errors import ExplainedError
from infra.home import Home
from infra.progress import progress as bar
from pipelines.sources.contract import Environment, Requests, Response, Slates

Policy = Callable[[Requests], Slates]
Transform = Callable[[Requests], Requests]
Arrays = dict[str, npt.NDArray[np.generic]]

ANSWERS = ("requests", "impressions", "clicks")


class Resumable(Environment, Protocol):
    """An environment that can be put down and taken up again."""

    @property
    def identity(self) -> str:
        """Which environment this is, apart from where it stands."""
        ...

    @property
    def now_us(self) -> int:
        """Where it stands."""
        ...

    def state(self) -> Arrays:
        """Where it stands, as plain arrays."""
        ...

    def restore(self, state: Arrays) -> None:
        """Stand where `state` was taken."""
        ...


def simulate(
    env: Environment, policy: Policy, until_us: int, transform: Transform | None = None
) -> Iterator[Response]:  # fmt: skip
    """Run an environment under a policy from where it stands up to `until_us`, in chunks of at most an hour.

    `transform` changes requests before the policy sees them (a drill shifts the device mix here); it may drop requests.
    """
    for asked in env.requests(until_us):
        yield env.respond(policy(transform(asked) if transform else asked))


def state_path(home: Home) -> Path:
    """Where `land_days` remembers how far a home's events go."""
    return home.landing / "_state.npz"


def load_state(path: Path) -> Arrays | None:
    """What `land_days` saved, or None where nothing was."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def resume(env: Resumable, home: Home) -> bool:
    """Put `env` where the home's landed events end; False, and untouched, where none have been landed.

    Raises ExplainedError where the home holds the events of another environment."""
    saved = load_state(state_path(home))
    if saved is None:
        return False
    if str(saved["identity"]) != env.identity:
        raise ExplainedError(
            f"{home.root} holds the events of another world (size or seed differ); use another --home, or delete that folder"
        )
    env.restore({name[4:]: values for name, values in saved.items() if name.startswith("env_")})
    return True


def late_events(home: Home) -> dict[str, pa.Table]:
    """Events of a home's history that are still on their way where it ends, by stream; none where nothing was landed."""
    saved = load_state(state_path(home)) or {}
    return {name: _unpack(saved[f"late_{name}"]) for name in ANSWERS if f"late_{name}" in saved}


def land_days(
    home: Home,
    env: Resumable,
    policy: Policy,
    until_us: int,
    profiles: Mapping[str, pa.Table],
    transform: Transform | None = None,
    progress: bool = True,
    start_from: Home | None = None,
) -> dict[str, int]:
    """Run `env` up to `until_us`, a midnight, and land each day; returns the rows landed so far by stream.

    Starts where the home's landed events end (those of `start_from`, if given: then a branch needs no copy of them), or where
    `env` stands if there are none.  `profiles` are whole tables of users and ads, of which each day gets what arrives in it.
    Events still on their way at the end are kept with the state and land when somebody continues.
    """
    source = start_from or home
    resumed = resume(env, source)
    saved = load_state(state_path(source)) if resumed else None
    if until_us % DAY_US or env.now_us % DAY_US:
        raise ValueError(f"events land in whole days; can't go from {env.now_us} to {until_us} us")
    rows = {name: int(saved[f"rows_{name}"]) if saved else 0 for name in (*ANSWERS, *profiles)}
    late = {name: _unpack(saved[f"late_{name}"]) for name in ANSWERS} if saved else {}
    days = range(env.now_us, until_us, DAY_US)
    for day_us in bar(days, "history", "day", shown=progress):
        answers = list(simulate(env, policy, day_us + DAY_US, transform))
        arrived, late = _arrivals(answers, late, profiles, day_us)
        for name, table in arrived.items():
            _write(home, home.landing / name / f"day={day_name(day_us)}" / "part-0.parquet", table)
            rows[name] += table.num_rows
        if answers:
            truth = pa.concat_tables([answer.truth for answer in answers])
            _write(home, home.truth / f"day={day_name(day_us)}.parquet", truth)
        save_state(home, env, late, rows)
    return rows


def _arrivals(
    answers: list[Response], late: Mapping[str, pa.Table], profiles: Mapping[str, pa.Table], day_us: int
) -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    """(what arrives on the day by stream, what is still on its way), each in order of arrival, then id."""
    arrived: dict[str, pa.Table] = {}
    still: dict[str, pa.Table] = {}
    for name in ANSWERS:
        parts = [late[name]] if name in late else []
        parts += [getattr(answer, name) for answer in answers]
        if not parts:
            continue
        events = pa.concat_tables(parts)
        here = pc.less(events["arrived_at"], pa.scalar(day_us + DAY_US, TIME))
        arrived[name] = _ordered(events.filter(here), name)
        still[name] = _ordered(events.filter(pc.invert(here)), name)
    for name, events in profiles.items():
        first, end = pa.scalar(day_us, TIME), pa.scalar(day_us + DAY_US, TIME)
        at = events["arrived_at"]
        arrived[name] = _ordered(events.filter(pc.and_(pc.greater_equal(at, first), pc.less(at, end))), name)
    return arrived, still


def _ordered(events: pa.Table, stream: str) -> pa.Table:
    return events.sort_by([("arrived_at", "ascending"), (KEYS[stream], "ascending")])


def _write(home: Home, path: Path, table: pa.Table) -> None:
    """Write a parquet file so that it is either whole or not there."""
    part = home.writing(path).with_name(f".{path.name}.part")
    pq.write_table(table.combine_chunks(), part, compression="zstd")
    os.replace(part, path)


def save_state(home: Home, env: Resumable, late: Mapping[str, pa.Table], rows: Mapping[str, int] | None = None) -> None:
    """Remember where everything stands, so that `resume` goes on from here: one file, replaced at once.

    `late` are events still on their way, `rows` those landed so far by stream."""
    arrays: dict[str, Any] = {"identity": np.array(env.identity)}
    arrays |= {f"env_{name}": values for name, values in env.state().items()}
    arrays |= {f"rows_{name}": np.int64(count) for name, count in (rows or {}).items()}
    arrays |= {f"late_{name}": _pack(table) for name, table in late.items()}
    path = home.writing(state_path(home))
    part = path.with_name(".state.part.npz")
    np.savez(part, **arrays)
    os.replace(part, path)


def _pack(table: pa.Table) -> npt.NDArray[np.uint8]:
    """A table as bytes (Arrow's stream format), so that it fits in the same file as the arrays."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return np.frombuffer(sink.getvalue(), np.uint8)


def _unpack(packed: npt.NDArray[np.generic]) -> pa.Table:
    """The table that `_pack` made bytes of."""
    with pa.ipc.open_stream(pa.py_buffer(packed.tobytes())) as stream:
        return stream.read_all()
