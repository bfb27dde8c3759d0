"""The generated parts of docs/serving.md, from docs/figures/bench-serve.json.  Registered in `pipelines.page_blocks`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.bench.boxes import BUSY, CORES_A_BOX, TARGET
from pipelines.figures import load
from pipelines.knee_picture import NAME
from pipelines.markdown import table

NOT_YET = "*Not recorded yet: `clickproof bench serve --record`.*"
MEANING = {
    "limit": "CPU over no-op HTTP + raw model, N={n}",
    "naive": "naive FastAPI + Feast SDK + pandas over ours, CPU, N={n}",
    "mlflow": "`mlflow models serve`, rows given, over ours, CPU, N={n}",
    "mlflow_inputs": "the same with rows given as tensors (`inputs`), N={n}",
    "p99_over_p50_at_half_knee": "p99 over p50 at half the knee",
    "goodput_at_3_knees_over_knee": "goodput at three times the knee over goodput at the knee",
}
PEERS = {
    "clickproof": "clickproof",
    "noop_door": "no-op, our front door",
    "noop_asgi": "no-op, bare ASGI",
    "noop_fastapi": "no-op, FastAPI",
    "naive": "naive: FastAPI, Feast SDK, pandas",
    "mlflow_dataframe_split": "mlflow models serve, `dataframe_split`",
    "mlflow_inputs": "mlflow models serve, `inputs`",
}


def _result() -> dict[str, Any]:
    return load("bench-serve").result


def rank() -> str:
    """Every server under every load."""
    result = _result()
    servers = {"clickproof": result["rank"], **result["peers"]}
    rows: list[Sequence[object]] = []
    for n, by_connections in result["rank"].items():
        for connections in by_connections:
            for name, said in PEERS.items():
                cell = servers[name][n][connections]
                rows.append(
                    [
                        n, connections, f"**{said}**" if name == "clickproof" else said, f"{cell['rps']:,.0f}",
                        f"{cell['p50_ms']:.2f}", f"{cell['p99_ms']:.2f}", f"{cell['cpu_us']:,.0f}",
                        "{:,.0f} to {:,.0f}".format(*cell["cpu_us_range"]),
                    ]
                )  # fmt: skip
    head = ["candidates", "connections", "server", "requests/s", "p50 ms", "p99 ms", "CPU us a request", "rounds' range"]
    engines = "; ".join(
        f"{engine} {', '.join(f'{us:,.0f} us at {n}' for n, us in by_n.items())}" for engine, by_n in result["raw_us"].items()
    )
    return f"{table(head, rows)}\n\nThe model alone, CPU a request: {engines}."


def ratios() -> str:
    """Every ratio beside its goal."""
    result = _result()
    goals = result["goals"]
    rows = []
    for name, measured in result["ratios"].items():
        rows.append([_meaning(name), _two(measured), *_goal(measured, *goals.get(name, ("", None)))])
    for n, found in result["stages"].items():
        met = abs(found["adds_up"] - 1) <= goals["stages_add_up"][1]
        goal = f"1, within {goals['stages_add_up'][1]:.0%}"
        rows.append([f"stages and HTTP over CPU, N={n}", _two(found["adds_up"]), goal, "yes" if met else "**no**"])
    return table(["figure", "measured", "goal", "met"], rows)


def _meaning(name: str) -> str:
    stem, _, n = name.rpartition("_n")
    return MEANING[stem].format(n=n) if stem in MEANING else MEANING[name]


def _two(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _goal(measured: float | None, bound: str, goal: float | None) -> tuple[str, str]:
    """What is asked, and whether it is met."""
    if goal is None:
        return "", ""
    met = measured is not None and (measured <= goal if bound == "at most" else measured >= goal)
    return f"{bound} {goal:g}", "yes" if met else "**no**"


def stages() -> str:
    """The budget of a request."""
    found = _result()["stages"]
    names = list(next(iter(found.values()))["us"])
    rows: list[list[object]] = [[name, *(f"{of_n['us'][name]:,.0f}" for of_n in found.values())] for name in names]
    rows.append(["rest", *(f"{of_n['rest']:,.0f}" for of_n in found.values())])
    rows.append(["**CPU a request**", *(f"**{of_n['cpu_us']:,.0f}**" for of_n in found.values())])
    return table(["stage, us", *(f"N={n}" for n in found)], rows)


def knee() -> str:
    """Rates around the knee."""
    result = _result()
    rows: list[list[object]] = []
    for n, found in result["knee"].items():
        for name, said in (("half", "half the knee"), ("knee", "the knee"), ("triple", "three times the knee")):
            at = found[name]
            lost = at["offered"] - at["answered"] - at["shed"]
            rates = [f"{at['rate']:,.0f}", f"{at['goodput']:,.0f}", _ms(at["p50_ms"]), _ms(at["p99_ms"])]
            client = f"{at['client_cpu']:.0%}, {_ms(at['late_p99_ms'])} ms"
            rows.append([n, said, *rates, f"{at['shed']:,}", f"{lost:,}", client])
    head = [
        "candidates", "offered at", "requests/s", "goodput/s", "p50 ms", "p99 ms", "shed", "lost", "client: CPU, lateness p99",
    ]  # fmt: skip
    deadline = next(iter(result["knee"].values()))["deadline_ms"]
    return (
        f"{table(head, rows)}\n\nThe knee is the largest rate found at which 99% of all that was offered was answered 200 "
        f"within {deadline:g} ms.\n\n![Goodput and latency over the rate offered](figures/{NAME})"
    )


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def hundred_thousand() -> str:
    """From a request's processor time to boxes."""
    found = _result()["boxes"]
    cpu = {n: 1e6 / of_n["rps_a_core"] for n, of_n in found.items()}
    rows = [
        ["CPU us a request, measured", *(f"{us:,.0f}" for us in cpu.values())],
        ["requests a second a core = 1,000,000 / that", *(f"{of_n['rps_a_core']:,.0f}" for of_n in found.values())],
        [f"cores kept busy by {TARGET:,} a second", *(f"{of_n['cores']:,.0f}" for of_n in found.values())],
        [f"cores at {BUSY:.0%} busy", *(f"{of_n['cores'] / BUSY:,.0f}" for of_n in found.values())],
        [f"**boxes of {CORES_A_BOX} cores**", *(f"**{of_n['boxes']:,.0f}**" for of_n in found.values())],
    ]
    return table(["", *(f"N={n}" for n in found)], rows)


def doors() -> str:
    """REST and gRPC under the same loads."""
    measured = _result().get("grpc")
    if measured is None:
        return NOT_YET
    rows: list[Sequence[object]] = []
    for n, by_connections in measured.items():
        for connections, both in by_connections.items():
            for door in ("rest", "grpc"):
                cell = both[door]
                rows.append(
                    [
                        n, connections, "gRPC" if door == "grpc" else "REST", f"{both['bytes'][door]:,}", f"{cell['rps']:,.0f}",
                        f"{cell['p50_ms']:.2f}", f"{cell['p99_ms']:.2f}", f"{cell['cpu_us']:,.0f}",
                        f"{both['cpu_ratio']:.2f}" if door == "grpc" else "1",
                    ]
                )  # fmt: skip
    head = [
        "candidates", "calls at once", "door", "bytes asked", "requests/s", "p50 ms", "p99 ms", "server's CPU us", "over REST",
    ]  # fmt: skip
    return table(head, rows)


def batches() -> str:
    """What a micro-batch saves, by how many wait."""
    measured = _result().get("micro_batch")
    if measured is None:
        return NOT_YET
    rows: list[Sequence[object]] = []
    for connections, by_batch in measured["cells"].items():
        alone = by_batch["1"]["cpu_us"]
        for batch, cell in by_batch.items():
            times = [f"{cell['rps']:,.0f}", f"{cell['p50_ms']:.2f}", f"{cell['p99_ms']:.2f}", f"{cell['cpu_us']:,.0f}"]
            rows.append([connections, batch, *times, f"{cell['cpu_us'] / alone:.2f}"])
    head = ["connections", "micro_batch", "requests/s", "p50 ms", "p99 ms", "CPU us a request", "over micro_batch 1"]
    said = "\n".join(f"- {_pays(connections, found)}" for connections, found in measured["pays"].items())
    return f"{table(head, rows)}\n\n{measured['candidates']} candidates.\n\n{said}"


def _pays(connections: str, found: Mapping[str, float] | None) -> str:
    where = f"**{connections} connection{'' if connections == '1' else 's'}**"
    if found is None:
        return f"{where}: does not pay."
    return (
        f"{where}: pays from {found['from']} on; {found['best']} takes least, {found['cpu_us']:.2f} times the processor time "
        f"of 1, with {found['rps']:.2f} times its requests a second, {found['p50_ms']:.2f} times its p50 and "
        f"{found['p99_ms']:.2f} times its p99."
    )


def conditions() -> str:
    """What was measured, on what, by what."""
    result = _result()
    model, users, machine = result["model"], result["users"], result["machine"]
    hits = users["cache_hit_rate"]
    lines = [
        f"- **Model**: {model['trees']} trees of depth {model['depth']} ({model['leaves_a_tree']:.0f} leaves each on average) "
        f"on {len(model['inputs'])} features: {', '.join(f'`{name}`' for name in model['inputs'])}.",
        f"- **Users**: {users['count']:,}, the one of rank r asked for in proportion to r^-{users['zipf']:g}. "
        + ("The server has no cache of users." if hits is None else f"The server found {hits:.1%} of them in its cache."),
        f"- **Machine**: {machine['cores']} cores, load {machine['load_before']:g} before the run; "
        + ("the server on one core, the client on another." if machine["apart"] else "server and client on the same core."),
        "- **Client**: " + "; ".join(_client(name, of_one) for name, of_one in result["clients"].items()) + ".",
        "- **Worker processes**, sharing the cores with the client: "
        + "; ".join(f"{k}: {w['rps']:,.0f} requests/s at {w['cpu_us']:,.0f} us CPU" for k, w in result["workers"].items())
        + f" ({next(iter(result['workers'].values()))['candidates']} candidates).",
    ]
    return "\n".join(lines)


def _client(name: str, seen: Mapping[str, Any]) -> str:
    return (
        f"{name} saw {seen['rps']:,.0f} requests/s, p50 {seen['p50_ms']:.2f} ms, {seen['cpu_us']:,.0f} us of the server's CPU"
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "serving-rank": rank,
    "serving-ratios": ratios,
    "serving-stages": stages,
    "serving-knee": knee,
    "serving-boxes": hundred_thousand,
    "serving-doors": doors,
    "serving-micro-batch": batches,
    "serving-conditions": conditions,
}
