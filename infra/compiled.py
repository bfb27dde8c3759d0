"""Loops over rows that are compiled to machine code (numba): plain Python to read, without numpy's cost of a call an operation.

Used by the few files that hold such loops; they are imported where they are first needed, because importing numba takes a third
of a second.  What was compiled is kept beside the source, or in the user's cache where that can't be written, and used again as
long as that one file is unchanged.  So a loop calls only what stands in its own file, and what may change elsewhere it gets
handed over.  (numba keeps it as pickles: whoever can write there could as well write the .pyc files beside them.)
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """The loop as machine code, compiled for the types of its first call.  Division by zero gives infinity or NaN, as in numpy;
    indexes are not checked."""
    try:
        return cast(Loop, numba.njit(cache=True, error_model="numpy")(loop))
    except RuntimeError:  # no folder to keep it in: each process compiles for itself
        return cast(Loop, numba.njit(error_model="numpy")(loop))
