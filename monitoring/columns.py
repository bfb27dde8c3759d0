"""The features of this system's own sources, as monitors need to know them: kinds, families, units, ages.

Called by whoever makes windows of the lake's log; an outside log's columns come from its mapping (`monitoring.outside`).
"""

from collections.abc import Sequence

from features.catalogue import Entity
from features.spec import feature_spec, service_views
from monitoring.window import LogColumns

# Categorical features that turn over by themselves: users and ads come and go.
IDS = ("user_id", "ad_id", "campaign_id", "advertiser_id")
# The first word of a feature's name -> whose history makes it vary together from day to day.
_FAMILIES = {
    "user": "user", "seconds": "user", "clicked": "user", "ad": "ad", "price": "ad", "topic": "ad", "campaign": "campaign",
    "hour": "time",
}  # fmt: skip


def columns_of(entities: Sequence[Entity], context: Sequence[str], service: str) -> LogColumns:
    """The features of a source and service, as monitors need to know them."""
    spec = feature_spec(entities, context, service)
    names = spec.categorical + spec.numeric
    families = {name: "request" if name in context else _FAMILIES.get(name.split("_")[0], "request") for name in names}
    units = {}
    for name, family in families.items():
        if family in ("ad", "campaign"):
            finest = "ad_id" if family == "ad" and name in spec.numeric else "campaign_id"
            units[name] = finest if finest in spec.categorical else "ad_id"
    ages = {view.name: float(view.max_age_s) for view in service_views(entities, service) if view.max_age_s is not None}
    ids = tuple(name for name in IDS if name in spec.categorical)
    return LogColumns(spec.categorical, spec.numeric, ids, families, units, ages)
