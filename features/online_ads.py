"""Ads, campaigns and placements in the process: few and asked for by every request, so they are not read from the store each
time but loaded as a whole when materialisation has written them.

A `Hot` never changes: a new one takes its place in one assignment.  Made by `load`; used by `features.online`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from features.batch import I64, Array
from features.catalogue import View
from features.online_values import Mark, key_values
from features.packed import Rows, layout
from features.side_by_side import Columns, Entities


class Everything(Protocol):
    """What is needed of an online store."""

    def everything(self, view: View) -> tuple[list[bytes], list[bytes]]:
        """Keys and packed rows of all entities of a view."""
        ...


@dataclass(frozen=True)
class Hot:
    """All ads with their campaigns, and all placements; the last row of each is the one that isn't known."""

    ad_ids: I64  # [m] sorted
    ads: Entities  # [m + 1]
    placement_row: Mapping[str, int]
    placements: Entities  # [q + 1]
    writes: Mapping[str, int]  # view -> its mark's number of writes when it was loaded
    _one: dict[int, Entities] = field(default_factory=dict, repr=False)

    def placement(self, word: str) -> Entities:
        """One placement [1], made once."""
        at = self.placement_row.get(word, len(self.placements) - 1)
        if at not in self._one:
            self._one[at] = self.placements.take(np.array([at]))
        return self._one[at]

    def placement_places(self, words: Sequence[str]) -> I64:
        """Each placement's row."""
        unknown = len(self.placements) - 1
        return np.array([self.placement_row.get(word, unknown) for word in words], np.int64)


def ad_columns(views: Sequence[View]) -> Columns:
    """Of the views of ads and campaigns among `views`."""
    return Columns([view for view in views if view.entity in ("ad", "campaign")])


def placement_columns(views: Sequence[View]) -> Columns:
    """Of the views of placements among `views`."""
    return Columns([view for view in views if view.entity == "placement"])


def load(store: Everything, ads: Columns, placements: Columns, marks: Mapping[str, Mark]) -> Hot:
    """Everything the store holds of these views; `marks` were read before."""
    ad_views = [_everything(store, view) for view in ads.views if view.entity == "ad"]
    campaign_views = [_everything(store, view) for view in ads.views if view.entity == "campaign"]
    ids = np.unique(np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in ad_views)]))
    rows, places = [], []
    campaign = np.full(len(ids) + 1, -1)
    for (keys, found), view in zip(ad_views, [v for v in ads.views if v.entity == "ad"], strict=True):
        place = np.append(find(keys, ids), len(keys))
        rows.append(found)
        places.append(place)
        if "campaign_id" in layout(view).at:
            campaign = found.whole[place, layout(view).at["campaign_id"].start]
    for keys, found in campaign_views:  # the second step: an ad's campaign is itself a feature
        rows.append(found)
        places.append(find(keys, campaign))
    words, (at_placement, of_placements) = {}, _nothing(placements)
    if placements.views:
        found_placements = [_everything(store, view) for view in placements.views]
        names = np.unique(np.concatenate([keys for keys, _ in found_placements]))
        words = {str(name): i for i, name in enumerate(names)}
        of_placements = [one for _, one in found_placements]
        at_placement = [np.append(find(keys, names), len(keys)) for keys, _ in found_placements]
    return Hot(
        ids,
        _beside(ads, rows, places, len(ids) + 1),
        words,
        _beside(placements, of_placements, at_placement, len(words) + 1),
        {view.name: marks[view.name].writes for view in (*ads.views, *placements.views) if view.name in marks},
    )


class _Empty:
    """A store with nothing in it."""

    def everything(self, view: View) -> tuple[list[bytes], list[bytes]]:
        return [], []


def nothing(ads: Columns, placements: Columns) -> Hot:
    """No ad and no placement is known."""
    return load(_Empty(), ads, placements, {})


def find(keys: Array, wanted: Array) -> I64:
    """The place of each wanted key among sorted keys; their number where it isn't there."""
    m = len(keys)
    if m == 0:
        return np.zeros(len(wanted), np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), m - 1)
    return np.where(keys[at] == wanted, at, m)


def _everything(store: Everything, view: View) -> tuple[Array, Rows]:
    """Sorted keys [m] of a view and its rows [m + 1]."""
    keys, packed = store.everything(view)
    entities = key_values(view, keys)
    order = np.argsort(entities)
    return entities[order], layout(view).unpack([packed[i] for i in order.tolist()])


def _nothing(columns: Columns) -> tuple[list[Array], list[Rows]]:
    return [], []


def _beside(columns: Columns, rows: list[Rows], places: list[Array], m: int) -> Entities:
    if columns.views:
        return columns.beside(rows, places)
    return columns.nothing(m)
