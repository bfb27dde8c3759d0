"""Which features a model lives on: how much NE rises when one column's values are shuffled between rows.

Permutation importance (Breiman 2001; Fisher, Rudin, Dominici 2019), the same for every family, since it needs only
`Artefact.score`. Called after training, and by monitoring to weigh drift by what it can do.
"""

from typing import Any

import numpy as np

from models.artefact import Artefact
from models.contract import Dataset
from models.metrics import normalised_entropy


def permutation_importance(
    artefact: Artefact, data: Dataset, *, rows: int = 10_000, repeats: int = 2, seed: int = 0
) -> list[dict[str, Any]]:
    """[{"feature", "ne_rise", "spread"}], largest first, over a sample of at most `rows` rows of `data`.

    `ne_rise` is the mean over `repeats` shuffles of NE with the shuffled column minus NE as it is; `spread` is half the
    range of the shuffles.  Correlated features share their importance: each can stand in for the other."""
    rng = np.random.default_rng(seed)
    if len(data) > rows:
        data = data.take(np.sort(rng.choice(len(data), rows, replace=False)))
    columns = {name: data.columns[name] for name in artefact.spec.names}

    def ne(changed: dict[str, Any]) -> float:
        return normalised_entropy(artefact.probability(artefact.score({**columns, **changed}), data.slot), data.label)

    whole = ne({})
    found = []
    for name in artefact.spec.names:
        rises = [ne({name: columns[name][rng.permutation(len(data))]}) - whole for _ in range(repeats)]
        found.append({"feature": name, "ne_rise": float(np.mean(rises)), "spread": float(np.ptp(rises) / 2)})
    return sorted(found, key=lambda row: -row["ne_rise"])
