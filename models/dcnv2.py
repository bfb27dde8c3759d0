"""DCNv2 in PyTorch: embeddings, explicit crosses of features, and a small network beside them.

Wang et al. 2021, "DCN V2: Improved Deep & Cross Network": x' = x0 * (W x + b) + x, stacked, in parallel with an MLP.
Sequences are the mean of their embeddings.  Built by `models.train` through `models.contract.Model`.
"""

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from infra.progress import progress
from models.contract import F32, Array, Dataset, FitReport, Model
from models.encode import Encoder
from models.engines.engine import Engine, Inputs
from models.metrics import logit_log_loss
from models.threads import torch_threads, training_threads

if TYPE_CHECKING:
    from models.engines.choice import Choice

Settings = Mapping[str, Any]
SETTINGS: Settings = {
    "dimensions": [4, 8],  # embedding width of columns with at most / more than 64 codes
    "cross_layers": 2,
    "hidden": [128, 64],
    "dropout": 0.1,
    "embedding_dropout": 0.1,  # share of large-vocabulary codes hidden in training, so that the unknown code is trained too
    "learning_rate": 1e-3,
    "embedding_decay": 2.0,  # times the learning rate: how much embeddings shrink a step, so that no user is memorised
    "weight_decay": 0.1,
    "averaging": 0.99,  # the weights kept are a running mean over the last hundred or so steps (Polyak and Juditsky 1992)
    "batch": 1024,
    "epochs": 8,
    "checks": 4,  # validations an epoch
    "patience": 5,  # validations without improvement before stopping
}
LARGE = 64
SCORE_ROWS = 8192  # rows scored at once: bounds memory
MADE_UP_LENGTH = 8  # of sequences, when an engine is timed


class Network(nn.Module):
    """From codes, numbers and sequences to a logit."""

    def __init__(self, sizes: tuple[int, ...], sequences: tuple[int, ...], numbers: int, settings: Settings) -> None:
        super().__init__()
        small, large = settings["dimensions"]
        widths = [small if size <= LARGE else large for size in sizes]
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size, width in zip(sizes, widths, strict=True))
        self.pools = nn.ModuleList(nn.Embedding(size, small) for size in sequences)
        for table in [*self.tables, *self.pools]:
            nn.init.normal_(table.weight, std=0.01)
        width = sum(widths) + small * len(sequences) + numbers
        crosses = [nn.Linear(width, width) for _ in range(settings["cross_layers"])]
        for cross in crosses:
            nn.init.normal_(cross.weight, std=1.0 / width)
            nn.init.zeros_(cross.bias)
        self.crosses = nn.ModuleList(crosses)
        layers: list[nn.Module] = []
        before = width
        for after in settings["hidden"]:
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(settings["dropout"])]
            before = after
        self.deep = nn.Sequential(*layers)
        self.head = nn.Linear(width + before, 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, codes: Tensor, numbers: Tensor, sequences: list[Tensor]) -> Tensor:
        """Logits [n] of codes int64 [n, columns], numbers float32 [n, k] and sequences int64 [n, length] (-1: nothing)."""
        parts = [table(codes[:, i]) for i, table in enumerate(self.tables)]
        for pool, sequence in zip(self.pools, sequences, strict=True):
            there = (sequence >= 0).to(numbers.dtype)
            total = (pool(sequence.clamp(min=0)) * there[:, :, None]).sum(dim=1)
            parts.append(total / there.sum(dim=1, keepdim=True).clamp(min=1.0))
        x0 = torch.cat([*parts, numbers], dim=1)
        x = x0
        for cross in self.crosses:
            x = x0 * cross(x) + x
        return self.head(torch.cat([x, self.deep(x0)], dim=1))[:, 0]


class DCNv2:
    """s(x) is the network's logit."""

    family = "dcnv2"

    def __init__(self, encoder: Encoder, settings: Settings = SETTINGS) -> None:
        self.encoder = encoder
        self.settings = settings
        self.threads = 1
        self.choice: Choice | None = None  # of engines to score with; None: torch
        self.network = _network(encoder, settings)

    def configuration(self) -> dict[str, Any]:
        """What was chosen by hand, for the record and to tell a refresh from a change."""
        return dict(self.settings)

    def fit(
        self, train: Dataset, valid: Dataset, offset: tuple[F32, F32], *, seed: int, warm_start: Model | None = None
    ) -> FitReport:
        """Adam on shuffled minibatches, validated several times an epoch; the weights with the least log loss are kept.

        A warm start continues from the old network, whose embeddings grow by the new categories."""
        started = time.perf_counter()
        self.choice = None
        torch.manual_seed(seed)
        if warm_start is None:
            self.network = _network(self.encoder, self.settings)
            rate = float(np.clip(train.label.mean(), 1e-6, 1 - 1e-6))
            with torch.no_grad():
                self.network.head.bias.fill_(float(np.log(rate / (1 - rate)) - offset[0].mean()))
        elif isinstance(warm_start, DCNv2):
            self.settings = warm_start.settings
            self.network = _grown(warm_start, self._grow(warm_start.encoder, train, min_count=5))
        else:
            raise TypeError(f"a DCNv2 model cannot start from a {warm_start.family} model; train it from scratch")
        inputs, held_out = self._tensors(train.columns), self._tensors(valid.columns)
        label, shift = torch.from_numpy(train.label.astype(np.float32)), torch.from_numpy(offset[0])
        batch = self.settings["batch"]
        steps = max(1, -(-len(train) // batch))
        every = max(1, steps // self.settings["checks"])
        history: list[float] = []
        best, kept, at = np.inf, _copy(self.network), 0
        mean = copy.deepcopy(self.network)
        with training_threads():
            if warm_start is not None:
                best = _log_loss(mean, held_out, offset[1], valid.label)
                history.append(best)
            optimiser = _optimiser(self.network, self.settings, self.settings["learning_rate"])
            for step in progress(range(steps * self.settings["epochs"]), "dcnv2", "step"):  # ends early mostly
                if step % steps == 0:
                    order = torch.randperm(len(train))
                rows = order[(step % steps) * batch :][:batch]
                self._step(optimiser, [part[rows] for part in inputs], label[rows], shift[rows])
                keep = min(self.settings["averaging"], (step + 1) / (step + 10))
                with torch.no_grad():
                    for slow, fast in zip(mean.parameters(), self.network.parameters(), strict=True):
                        slow.lerp_(fast, 1 - keep)
                if (step + 1) % every == 0:
                    history.append(_log_loss(mean, held_out, offset[1], valid.label))
                    if history[-1] < best:
                        best, kept, at = history[-1], _copy(mean), step + 1
                    elif len(history) - 1 - int(np.argmin(history)) >= self.settings["patience"]:
                        break
        self.network.load_state_dict(kept)
        return FitReport(at, float(best), time.perf_counter() - started, tuple(history))

    def update(self, batch: Dataset, offset: F32) -> None:
        """A few small steps on `batch` from where the network stands; categories seen for the first time get an embedding."""
        self.choice = None
        self.network = _grown(self, self._grow(self.encoder, batch, min_count=1))
        inputs = self._tensors(batch.columns)
        label, shift = torch.from_numpy(batch.label.astype(np.float32)), torch.from_numpy(offset)
        torch.manual_seed(len(batch))
        optimiser = _optimiser(self.network, self.settings, self.settings["learning_rate"] / 3)
        with training_threads():
            for start in range(0, len(batch), self.settings["batch"]):
                rows = slice(start, start + self.settings["batch"])
                for _ in range(3):
                    self._step(optimiser, [part[rows] for part in inputs], label[rows], shift[rows])

    def margin(self, inputs: Inputs) -> F32:
        """s(x) of n rows, float32 [n], with `threads` threads, by the engine chosen for as many rows."""
        n = len(inputs[0])
        engine = self.engine(n)
        if n <= SCORE_ROWS:
            return engine(inputs)
        return np.concatenate([engine(tuple(part[i : i + SCORE_ROWS] for part in inputs)) for i in range(0, n, SCORE_ROWS)])

    def score(self, columns: Mapping[str, Array]) -> F32:
        """`margin` of `inputs`."""
        return self.margin(self.inputs(columns))

    def save(self, folder: Path) -> None:
        """encoder.json, encoder.npz, network.json (settings) and network.npz (weights by name)."""
        self.encoder.save(folder)
        weights: dict[str, Any] = {name: value.numpy() for name, value in self.network.state_dict().items()}
        np.savez(folder / "network.npz", **weights)
        (folder / "network.json").write_text(json.dumps(dict(self.settings), sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        model = cls(Encoder.load(folder), json.loads((folder / "network.json").read_text()))
        with np.load(folder / "network.npz", allow_pickle=False) as arrays:
            model.network.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        return model

    def use_threads(self, count: int) -> None:
        """Let scoring use `count` threads; engines that were chosen for another number are forgotten."""
        self.threads, self.choice = count, None

    def engines(self) -> tuple[Engine, ...]:
        """torch itself, and the same network in ONNX Runtime."""
        from models.engines.session import OnnxRuntime

        return Eager(self.network, self.threads), OnnxRuntime(self.graph(), self.threads)

    def engine(self, n: int) -> Engine:
        """The engine chosen for n rows; torch where none was."""
        return Eager(self.network, self.threads) if self.choice is None else self.choice.engine(n)

    def made_up(self, n: int, rng: np.random.Generator) -> Inputs:
        """n rows of codes, numbers and sequences drawn at random."""
        codes = rng.integers(0, self.encoder.sizes, (n, len(self.encoder.sizes)))
        numbers = rng.normal(size=(n, self.encoder.dense)).astype(np.float32)
        sizes = [self.encoder.vocabularies[name].size for name in self.encoder.spec.sequence]
        return codes, numbers, *(rng.integers(-1, size, (n, MADE_UP_LENGTH)) for size in sizes)

    def use_engines(self, choice: "Choice | None") -> None:
        """Score with the engine chosen for each batch size; None: with torch."""
        self.choice = choice

    def inputs(self, columns: Mapping[str, Array]) -> Inputs:
        """What engines get of n rows: codes, numbers (with missing indicators), then each sequence."""
        encoded = self.encoder.encode(columns)
        return encoded.codes, np.concatenate([encoded.numeric, encoded.missing], axis=1), *encoded.sequences

    def graph(self) -> bytes:
        """The network as an ONNX graph."""
        from models.engines.network import graph

        return graph({name: value.numpy() for name, value in self.network.state_dict().items()}, self.encoder.dense)

    def _grow(self, encoder: Encoder, data: Dataset, *, min_count: int) -> Encoder:
        self.encoder = encoder.grown(data.columns, min_count=min_count)
        return self.encoder

    def _tensors(self, columns: Mapping[str, Array]) -> list[Tensor]:
        return [torch.from_numpy(part) for part in self.inputs(columns)]

    def _step(self, optimiser: torch.optim.Optimizer, inputs: list[Tensor], label: Tensor, shift: Tensor) -> None:
        codes, numbers, *sequences = inputs
        large = torch.tensor([size > LARGE for size in self.encoder.sizes])
        hidden = (torch.rand(codes.shape) < self.settings["embedding_dropout"]) & large
        self.network.train()
        logit = self.network(codes.masked_fill(hidden, 0), numbers, sequences) + shift
        loss = nn.functional.binary_cross_entropy_with_logits(logit, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@dataclass(frozen=True, slots=True)
class Eager:
    """The network in torch, as it is, with that many threads (`models.engines.engine.Engine`)."""

    network: Network
    threads: int = 1
    name: str = "torch"

    def __call__(self, inputs: Inputs) -> F32:
        """Logits of n rows."""
        with torch_threads(self.threads):
            return _score(self.network, [torch.from_numpy(part) for part in inputs])


def _score(network: Network, inputs: list[Tensor]) -> F32:
    network.eval()
    with torch.inference_mode():
        pieces = zip(*(part.split(SCORE_ROWS) for part in inputs), strict=True)
        parts = [network(codes, numbers, sequences).numpy() for codes, numbers, *sequences in pieces]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _log_loss(network: Network, inputs: list[Tensor], offset: F32, label: Array) -> float:
    return logit_log_loss(_score(network, inputs) + offset, label)


def _network(encoder: Encoder, settings: Settings) -> Network:
    sequences = tuple(encoder.vocabularies[name].size for name in encoder.spec.sequence)
    return Network(encoder.sizes, sequences, encoder.dense, settings)


def _optimiser(network: Network, settings: Settings, rate: float) -> torch.optim.Optimizer:
    embeddings = [table.weight for table in [*network.tables, *network.pools]]
    inside = {id(weight) for weight in embeddings}
    others = [weight for weight in network.parameters() if id(weight) not in inside]
    groups = [
        {"params": embeddings, "weight_decay": settings["embedding_decay"]},
        {"params": others, "weight_decay": settings["weight_decay"]},
    ]
    return torch.optim.AdamW(groups, lr=rate)


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _grown(old: DCNv2, encoder: Encoder) -> Network:
    """The old network with embedding tables as long as `encoder` needs; new rows start as the unknown's."""
    network = _network(encoder, old.settings)
    fresh = network.state_dict()
    for name, value in old.network.state_dict().items():
        if name.startswith(("tables.", "pools.")):
            fresh[name][: len(value)] = value
            fresh[name][len(value) :] = value[0]
        else:
            fresh[name].copy_(value)
    return network
