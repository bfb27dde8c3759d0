"""The generated parts of docs/serving.md about faults and load, from docs/figures/bench-serve.json.  Registered in
`pipelines.page_blocks`."""

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.figures import load
from pipelines.markdown import table

NOT_YET = "*Not recorded yet: `clickproof bench serve --record`.*"
NO_REDIS = "*Not measured: redis-server is not on PATH (`apt-get install redis`).*"
MEANING = {
    "kills": "workers killed (SIGKILL) under load",
    "missing": "answered predictions missing from the lake afterwards",
    "answered_without_store": "share answered while Redis is gone",
    "p99_without_store_over_before": "p99 while Redis is gone over p99 before",
    "swaps": "times the model was changed under load",
    "failed_in_swaps": "failed requests while the model is changed",
    "rollback_s": "seconds from asking for a rollback to the first answer by the champion before (median)",
}
BOUNDS: dict[str, Callable[[float, float], bool]] = {"at least": float.__ge__, "at most": float.__le__}


def _faults() -> dict[str, Any]:
    found: dict[str, Any] = load("bench-serve").result.get("faults", {})
    return found


def goals() -> str:
    """Every goal beside what was measured."""
    found = _faults()
    if not found:
        return NOT_YET
    rows = []
    for name, (bound, goal) in found["goals"].items():
        measured = found["against"][name]
        met = measured is not None and BOUNDS[bound](float(measured), float(goal))
        said = "not measured" if measured is None else f"{measured:g}"
        rows.append([MEANING[name], said, f"{bound} {goal:g}", "yes" if met else "**no**"])
    return table(["figure", "measured", "goal", "met"], rows)


def kills() -> str:
    """Workers killed."""
    found = _faults().get("kills")
    if not found:
        return NOT_YET
    return (
        f"{found['kills']} kills at {found['rate']:,.0f} requests/s with two workers: {found['offered']:,} requests, "
        f"{found['answered']:,} answered, {found['unanswered']:,} without an answer because their worker was killed, "
        f"{found['refused']:,} refused. Of {found['impressions']:,} impressions that callers were told to show, "
        f"{found['missing_in_log']:,} were missing in the log and {found['missing_in_lake']:,} in the lake; "
        f"{found['twice_in_lake']:,} were there twice. {found['torn_bytes']:,} bytes of torn records were left alone. "
        f"Two workers answered again {_s(found['whole_again_s'])} after a kill (median)."
    )


def outage() -> str:
    """Redis gone."""
    found = _faults()
    if not found:
        return NOT_YET
    gone = found["outage"]
    if gone is None:
        return NO_REDIS
    rows = []
    for name, said in (("before", "before"), ("during", f"gone for {gone['down_s']:g} s"), ("after", "back")):
        part = gone[name]
        steps = ", ".join(f"{count:,} by {step}" for step, count in sorted(part["degraded"].items())) or "none"
        rows.append(
            [
                said,
                f"{part['offered']:,}",
                _share(part["share"]),
                _ms(part["p50_ms"]),
                _ms(part["p99_ms"]),
                _us(part["cpu_us"]),
                steps,
            ]
        )
    again = gone["whole_again_s"]
    tail = "Answers were not whole again." if again is None else f"Answers were whole again {_s(again)} after Redis was back."
    head = ["Redis", "requests", "answered", "p50 ms", "p99 ms", "CPU us a request", "with less than they should have"]
    return f"{table(head, rows)}\n\nAt {gone['rate']:,.0f} requests/s, half the knee. {tail}"


def swaps() -> str:
    """Models changed."""
    found = _faults()
    if not found:
        return NOT_YET
    changed = found["swaps"]
    if changed is None:
        return "*Not measured: the home has one model only.*"
    first, back = changed["answers_s"], changed["rollback_s"]
    return (
        f"{changed['swaps']} promotions and {changed['rollbacks']} rollbacks at {changed['rate']:,.0f} requests/s: "
        f"{changed['failed']:,} of {changed['offered']:,} requests failed. The new model's first answer came "
        f"{_s(first['median'])} after the change (median; at most {_s(first['most'])}); a rollback took {_s(back['median'])} "
        f"from the command to the first answer (at most {_s(back['most'])}). "
        f"p50 {_ms(changed['p50_ms'])} ms, p99 {_ms(changed['p99_ms'])} ms meanwhile."
    )


def stores() -> str:
    """SQLite beside Redis."""
    found = _faults()
    if not found:
        return NOT_YET
    if found["stores"] is None:
        return NO_REDIS
    rows = []
    for kind, said in (("kept", "by popularity"), ("read", "each once")):
        for name, by_kind in found["stores"].items():
            at = by_kind[kind]
            own = f"{at['redis_us']:,.0f}" if "redis_us" in at else ""
            seen = [f"{at['rps']:,.0f}", _ms(at["p50_ms"]), _ms(at["p99_ms"]), f"{at['cpu_us']:,.0f}", own]
            rows.append([said, name, _share(at["hit_rate"]), *seen])
    head = ["users", "store", "found in the server", "requests/s", "p50 ms", "p99 ms", "CPU us a request", "Redis' own"]
    return table(head, rows)


def tail() -> str:
    """Where the slowest answers come from."""
    found = _faults().get("tail")
    if not found:
        return NOT_YET
    said = {
        "queue": "a queue with this service time and nothing else, computed",
        "server": "the server's own histogram",
        "client": "the client, from when a request was due",
    }
    rows = [
        [words, _ms(found[name]["p50_ms"]), _ms(found[name]["p99_ms"]), _ms(found[name]["p99_over_p50"])]
        for name, words in said.items()
    ]
    head = [f"at {found['rate']:,.0f} requests/s", "p50 ms", "p99 ms", "p99 over p50"]
    return (
        f"{table(head, rows)}\n\n"
        f"The server's thread was ready and had to wait for its core {found['waited_for_core']:.1%} of the time; the client "
        f"sent 99% of its requests within {_ms(found['client_late_p99_ms'])} ms of their time."
    )


def workers() -> str:
    """One and two worker processes."""
    found: Mapping[str, Any] = load("bench-serve").result["workers"]
    if any("knee" not in at for at in found.values()):
        return NOT_YET
    rows = []
    for count, at in found.items():
        knee = at["knee"]
        closed = [f"{at['rps']:,.0f}", _ms(at["p50_ms"]), _ms(at["p99_ms"]), f"{at['cpu_us']:,.0f}", f"{at['client_cpu']:.0%}"]
        rows.append([count, *closed, f"{knee['rate']:,.0f}", _ms(knee["p99_ms"])])
    head = ["workers", "requests/s", "p50 ms", "p99 ms", "CPU us a request", "client's CPU", "knee, requests/s", "p99 ms there"]
    return table(head, rows)


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _us(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}"


def _s(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"


BLOCKS: dict[str, Callable[[], str]] = {
    "faults-goals": goals,
    "faults-kills": kills,
    "faults-outage": outage,
    "faults-swaps": swaps,
    "faults-stores": stores,
    "faults-tail": tail,
    "faults-workers": workers,
}
