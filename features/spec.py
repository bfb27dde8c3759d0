"""Which features a data set has: the catalogue cut down to a source's entities and context and to a feature service.

`pipelines` hands the answer to models as their `FeatureSpec` (features may not import models); the sources read the same views.
"""

from collections.abc import Sequence
from typing import NamedTuple

from features.catalogue import CONTEXT, SERVICES, VIEWS, Entity, Use, View
from features.derive import available


class Spec(NamedTuple):
    """Names of the columns by use, and the views that this source can't fill."""

    categorical: tuple[str, ...]
    numeric: tuple[str, ...]
    sequence: tuple[str, ...]
    skipped_views: tuple[str, ...]


def service_views(entities: Sequence[Entity], service: str) -> tuple[View, ...]:
    """The views of a service whose entity the source has.  Raises KeyError naming the services there are."""
    if service not in SERVICES:
        raise KeyError(f"no feature service {service!r}; there are {sorted(SERVICES)}")
    return tuple(view for view in VIEWS if view.name in SERVICES[service] and view.entity in entities)


def feature_spec(entities: Sequence[Entity], context: Sequence[str], service: str = "ctr_full") -> Spec:
    """The columns that a FeatureBatch of this source and service holds, by use.

    Context columns that the catalogue doesn't know are the source's own, and categorical.
    """
    views = service_views(entities, service)
    uses: dict[str, Use] = {}
    if "user" in entities:
        uses["user_id"] = "categorical"
    if "ad" in entities:
        uses["ad_id"] = "categorical"
    known = {feature.name: feature.use for feature in CONTEXT}
    uses |= {name: known.get(name, "categorical") for name in context}
    uses |= {feature.name: feature.use for view in views for feature in view.features}
    uses |= {feature.name: feature.use for feature in available(views, tuple(context))}
    kept = {view.name for view in views}
    return Spec(
        categorical=tuple(name for name, use in uses.items() if use == "categorical"),
        numeric=tuple(name for name, use in uses.items() if use == "numeric"),
        sequence=tuple(name for name, use in uses.items() if use == "sequence"),
        skipped_views=tuple(name for name in SERVICES[service] if name not in kept),
    )
