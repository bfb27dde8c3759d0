"""The model families by name, and what the artefact needs of a model beyond `models.contract.Model`."""

from typing import Any, Protocol

from models.contract import Model
from models.encode import Encoder

FAMILIES = ("logistic", "xgboost", "dcnv2")
BASE_RATE = "base_rate"  # the comparator of an empty registry


class TrainedModel(Model, Protocol):
    """A model that owns its encoder and can be told how many threads to score with."""

    encoder: Encoder

    def configuration(self) -> dict[str, Any]:
        """What was chosen by hand: equal configurations make a refresh, different ones a change."""
        ...

    def use_threads(self, count: int) -> None:
        """Let scoring use `count` threads."""
        ...


def family(name: str) -> Any:
    """The class of a family: called with an encoder it makes an untrained model, its `load` reads a saved one.

    Imports nothing that the family doesn't need.  KeyError names the families there are."""
    if name == "logistic":
        from models.logistic import Logistic

        return Logistic
    if name == "xgboost":
        from models.boosted_trees import BoostedTrees

        return BoostedTrees
    if name == "dcnv2":
        from models.dcnv2 import DCNv2

        return DCNv2
    if name == BASE_RATE:
        from models.baseline import BaseRate

        return BaseRate
    raise KeyError(f"no model family {name!r}; there are {', '.join(FAMILIES)}")
