"""What other engines than the library that trained it do for a model: speed, size, p, NE; and what rows cost by batch size.

The families of a trained home, on test rows, one thread.  Question 14's table (`batching`) comes from the same run.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from infra.errors import ExplainedError
from infra.home import Home
from infra.settings import Settings
from models.artefact import Artefact, load
from models.boosted_trees import BoostedTrees
from models.contract import Dataset
from models.dcnv2 import DCNv2
from models.engines import int8
from models.engines.choice import BATCHES, cpu_us, use_fastest
from models.engines.engine import Engine
from models.engines.one_engine import computed_by
from models.engines.session import OnnxRuntime
from models.registry import Registry
from pipelines.answers import torch_engines
from pipelines.answers.material import difference, size_of
from pipelines.answers.workplace import times
from pipelines.console import say
from pipelines.markdown import interval, table
from pipelines.sources.registry import source_of
from pipelines.training import assemble, probability

QUESTION = "What do ONNX, int8, TorchScript and torch.compile buy? Speed, size, largest change in p, change in NE."
NUMBER = 15

FAMILIES = ("xgboost", "dcnv2")
SIZES = (1, 5, 20, 100, 1000, 10_000)
SLOPE = (100, 1000)  # between these sizes a row's own cost is read
SPEND_NS = 200_000_000  # processor time of one engine at one size

Found = list[tuple[Engine, int | None]]  # engines, and their bytes as a file


def run(chosen: Settings) -> dict[str, Any]:
    """By family and engine: processor microseconds by batch size, bytes, largest change of p, NE difference."""
    home, spec, load_before = chosen.base(), source_of(chosen).spec, os.getloadavg()[0]
    models = newest(home)
    say("assembling the training set")
    parts = assemble(home, spec, chosen)
    trees, network = (models[family].model for family in FAMILIES)
    assert isinstance(trees, BoostedTrees)
    assert isinstance(network, DCNv2)
    found = {"xgboost": _of_trees(home, models["xgboost"], trees)}
    say("compiling")
    found["dcnv2"], graph, compiling_s = _of_network(home, models["dcnv2"], network, parts.test)
    say("the gate in front of int8")
    gate = int8.judge(models["dcnv2"], graph, parts.valid)
    spend = times(chosen, SPEND_NS)
    return {
        **size_of(parts.test),
        "families": {family: _measured(models[family], found[family], parts.test, spend) for family in FAMILIES},
        "gate": {**asdict(gate), "verdict": gate.verdict},
        "compiling_s": compiling_s,
        "network": _arithmetic(network),
        "cores": os.cpu_count(),
        "load_before": round(load_before, 1),
    }


def newest(home: Home) -> dict[str, Artefact]:
    """The newest recorded artefact of each of FAMILIES.  Raises ExplainedError where one was never trained."""
    found: dict[str, Artefact] = {}
    for version in reversed(Registry.of(home).versions()):
        artefact = load(home.artefacts, version.hash)
        found.setdefault(artefact.family, artefact)
    for family in FAMILIES:
        if family not in found:
            raise ExplainedError(f"{home.root} has no {family} model; run: clickproof train")
    return found


def _of_trees(home: Home, artefact: Artefact, model: BoostedTrees) -> Found:
    own, onnx, *in_memory = model.engines()
    files: Found = [(own, _bytes(home, artefact, "trees.ubj")), (onnx, len(model.forest().graph()))]
    return [*files, *((engine, None) for engine in in_memory)]


def _of_network(home: Home, artefact: Artefact, model: DCNv2, test: Dataset) -> tuple[Found, bytes, float | None]:
    """Engines, the quantised graph, and the seconds that torch.compile took."""
    own, onnx = model.engines()
    graph = model.graph()
    small = int8.quantised(graph)
    examples = [model.inputs(test.take(np.arange(n)).columns) for n in (20, 1, 1000)]
    found: Found = [
        (own, _bytes(home, artefact, "network.npz")),
        (onnx, len(graph)),
        (OnnxRuntime(small, name=int8.NAME), len(small)),
        torch_engines.torchscript(model.network, examples[0]),
    ]
    compiled = torch_engines.compiled(model.network, examples)
    if compiled is None:
        return found, small, None
    return [*found, (compiled[0], None)], small, compiled[1]


def _bytes(home: Home, artefact: Artefact, file: str) -> int:
    return (home.artefacts / artefact.hash / file).stat().st_size


def _measured(artefact: Artefact, found: Found, test: Dataset, spend_ns: int) -> dict[str, Any]:
    say(f"timing {artefact.family}")
    model, rng = artefact.model, np.random.default_rng(15)
    assert isinstance(model, BoostedTrees | DCNv2)
    engines = [engine for engine, _ in found]
    us: dict[str, list[float]] = {}
    encode: dict[str, float] = {}
    for n in SIZES:
        batches = [test.take(rng.integers(0, len(test), n)).columns for _ in range(BATCHES)]
        us[str(n)] = cpu_us(engines, [model.inputs(columns) for columns in batches], spend_ns)
        encode[str(n)] = cpu_us([model.inputs], batches, spend_ns)[0]
    say(f"scoring {len(test):,} rows with each engine of {artefact.family}")
    expected = probability(artefact, test)
    rows = {}
    for place, (engine, size) in enumerate(found):
        same = computed_by(artefact, engine)
        p = int8.by_request(same, test) if engine.name == int8.NAME else probability(same, test)
        rows[engine.name] = {
            "bytes": size,
            "us": {n: values[place] for n, values in us.items()},
            "max_dp": float(np.abs(p - expected).max()),
            "ne_difference": difference(p, expected, test) if place else None,
        }
    return {"engines": rows, "encode_us": encode, "at_load": use_fastest(model)}


def _arithmetic(model: DCNv2) -> dict[str, int]:
    """What the network is made of: rows and bytes of embedding tables, and multiply-adds of a row."""
    weights = model.network.state_dict()
    tables = [value for name, value in weights.items() if name.startswith(("tables.", "pools."))]
    matrices = [value for name, value in weights.items() if value.ndim == 2 and not name.startswith(("tables.", "pools."))]
    return {
        "table_rows": sum(len(value) for value in tables),
        "table_bytes": sum(value.numel() * 4 for value in tables),
        "multiply_adds": sum(value.numel() for value in matrices),
    }


def markdown(result: dict[str, Any]) -> str:
    """A table a family; what a server chooses at load; the gate in front of int8."""
    parts = [
        f"Processor microseconds of one call with n rows, one thread, medians, rows encoded already; p and NE (95% intervals) "
        f"on {result['n']:,} test impressions with {result['clicks']:,} clicks, {result['days']} days. The machine has "
        f"{result['cores']} cores and a load of {result['load_before']:g} before the run."
    ]
    head = ["engine", "file", *(f"n={n:,}" for n in SIZES), "largest change of p", "NE against the first"]
    for family, found in result["families"].items():
        rows = [
            [
                name,
                "" if one["bytes"] is None else f"{one['bytes'] / 1e3:,.0f} kB",
                *(f"{one['us'][str(n)]:,.0f}" for n in SIZES),
                "" if one["ne_difference"] is None else f"{one['max_dp']:.1g}",
                "" if one["ne_difference"] is None else interval(one["ne_difference"], 6, sign=True),
            ]
            for name, one in found["engines"].items()
        ]
        parts += [table([family, *head[1:]], rows), f"Chosen at load, on made-up rows: {found['at_load']}."]
    passed = "passes" if result["gate"]["passed"] else "refused"
    parts.append(f"int8's gate on the validation rows, scored 20 at a time: {passed}; {result['gate']['verdict']}.")
    compiling = result["compiling_s"]
    parts.append(
        "torch.compile was not measured: there is no C++ compiler here."
        if compiling is None
        else f"torch.compile took {compiling:.0f} s of processor time to compile; every process without its cache pays that."
    )
    return "\n\n".join(parts)


def batching(result: dict[str, Any]) -> str:
    """Question 14: microseconds a row by batch size, what a call costs before its first row, and the arithmetic of tables."""
    columns = {f"{family}: encode": found["encode_us"] for family, found in result["families"].items()}
    for family, found in result["families"].items():
        served = [name for name in found["engines"] if "torch." not in name and name != "TorchScript"]
        columns |= {f"{family}: {name}": found["engines"][name]["us"] for name in served}
    columns = dict(sorted(columns.items(), key=lambda item: not item[0].startswith("xgboost")))
    rows = [[f"{n:,}", *(f"{us[str(n)] / n:,.3g}" for us in columns.values())] for n in SIZES]
    fixed = {name: call_and_row({int(n): value for n, value in us.items()}) for name, us in columns.items()}
    own = [[name, f"{call:,.0f}", f"{row:.2f}", f"{call / row:,.0f}"] for name, (call, row) in fixed.items()]
    network = result["network"]
    width = network["table_bytes"] / network["table_rows"]
    flops = 2 * network["multiply_adds"] / fixed["dcnv2: onnxruntime"][1] / 1e3
    return "\n\n".join(
        [
            "Processor microseconds a row, one thread, by rows at once:",
            table(["rows at once", *columns], rows),
            "Read from it: what a call costs whatever its rows, what a row costs after that, and how many rows cost as much as "
            "the call does.",
            table(["", "a call, us", "a row, us", "rows for one call"], own),
            f"DCNv2's {network['table_rows']:,} embedding rows are {network['table_bytes'] / 1e3:,.0f} kB, {width:.0f} bytes "
            f"each on average; 100 million users of 8 floats would be {100e6 * 8 * 4 / 1e9:.1f} GB. A row takes "
            f"{network['multiply_adds']:,} multiply-adds, so one core does {flops:.0f} billion operations a second.",
        ]
    )


def call_and_row(us: Mapping[int, float], slope: Sequence[int] = SLOPE) -> tuple[float, float]:
    """(us of a call before its rows, us of a row): the row's from between the sizes of `slope`, the call's from one row."""
    low, high = slope
    row = (us[high] - us[low]) / (high - low)
    return max(us[1] - row, 0.0), row
