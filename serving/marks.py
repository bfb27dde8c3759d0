"""What an answer had to do without: unknown users and ads, views that were missing or stale, and what stood in.  Used by
`serving.scorer`.
"""

from typing import NamedTuple

import numpy as np

from features.batch import I64, MISSING, STALE, Degraded, ViewStates
from features.catalogue import VIEWS

_ENTITY = {view.name: view.entity for view in VIEWS}


class Marks(NamedTuple):
    """What the answer had to do without."""

    user_known: bool
    unknown_ads: tuple[int, ...]  # candidates without any stored row
    missing: tuple[str, ...]  # views without a row for some candidate
    stale: tuple[str, ...]  # views older than they should be for some candidate
    degraded: Degraded = ""  # what stood in for what could not be had


def marks(states: ViewStates, ad_id: I64, degraded: Degraded) -> Marks:
    """Which views were missing or stale for some candidate of one request, and who was unknown: had no row in any view.

    The rows of a request share its user, so the first row speaks for the user.
    """
    if not states.flawed:
        return Marks(True, (), (), (), degraded)
    missing, stale = states.status == MISSING, (states.status == STALE).any(axis=0)
    names = np.array(states.names)
    users, ads = ([at for at, name in enumerate(states.names) if _ENTITY.get(name) == entity] for entity in ("user", "ad"))
    user_known = not users or not missing[0, users].all()
    unknown = ad_id[missing[:, ads].all(axis=1)].tolist() if ads else []
    return Marks(user_known, tuple(unknown), tuple(names[missing.any(axis=0)].tolist()), tuple(names[stale].tolist()), degraded)
