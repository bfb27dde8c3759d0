"""The endpoint's requests and answers as msgspec structs, and the checks between JSON and a `RankRequest`.

Used by `serving.app`.  Every way a request can be wrong names its field, so that the caller knows what to change.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
import numpy as np

from features.batch import Degraded
from features.catalogue import CONTEXT, DERIVED, VIEWS, Kind
from features.ids import derived_id_one
from serving.scorer import Answer, RankRequest

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Price = Annotated[float, msgspec.Meta(ge=0, le=1e9)]  # finite as float32, also when multiplied by a probability
# Bounded, because each value is repeated for every candidate.
Word = Annotated[str, msgspec.Meta(max_length=128)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
T = TypeVar("T")


class Candidate(msgspec.Struct, forbid_unknown_fields=True):
    """An ad with its bid."""

    ad_id: Id
    bid: Price


class RankBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/rank.  Candidates are ad ids, or all of them pairs of ad id and bid."""

    candidates: Annotated[list[Id | Candidate], msgspec.Meta(min_length=1)]
    slots: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1, description="Ads to show at most.")]
    user_id: Annotated[Id | None, msgspec.Meta(description="Leave out for someone unknown.")] = None
    context: Annotated[
        dict[str, Word | Whole | None], msgspec.Meta(description="Page and device; GET /v1/model names the fields.")
    ] = {}
    request_id: Annotated[
        Id | None, msgspec.Meta(description="Decides the request's luck; made by the server where left out.")
    ] = None


class ShownAd(msgspec.Struct):
    """One ad of the slate."""

    ad_id: int
    slot: Annotated[int, msgspec.Meta(description="Position from 0, the top.")]
    impression_id: int
    p: Annotated[float, msgspec.Meta(description="Click probability at this slot.")]
    s: Annotated[float, msgspec.Meta(description="Calibrated logit without position.")]
    propensity: Annotated[float, msgspec.Meta(description="Probability that the policy gives this slot to this ad.")]


class AnswerMarks(msgspec.Struct):
    """What the answer had to do without."""

    user: Literal["known", "unknown"]
    unknown_ads: list[int]
    missing: Annotated[list[str], msgspec.Meta(description="Feature views without a row for some candidate.")]
    stale: Annotated[list[str], msgspec.Meta(description="Feature views older than they should be.")]
    degraded: Annotated[
        Degraded,
        msgspec.Meta(description="What stood in for what could not be had; empty: nothing had to."),
    ] = ""


class RankAnswer(msgspec.Struct):
    """Answer of POST /v1/rank."""

    request_id: int
    arm: str
    model: Annotated[
        str, msgspec.Meta(description="Content hash of the model version, or popularity where no model could score.")
    ]
    policy: str
    randomised: bool
    ads: list[ShownAd]
    marks: AnswerMarks


class ModelAnswer(msgspec.Struct):
    """Answer of GET /v1/model: what is being served."""

    model: str
    encoder: str
    family: str
    features: dict[str, list[str]]
    context: Annotated[dict[str, str], msgspec.Meta(description="Context fields of a request and their types.")]
    policy: str
    arms: dict[str, float]
    engine: Annotated[str, msgspec.Meta(description="What computes the model at which batch size, and why.")]
    rollout: Annotated[int, msgspec.Meta(description="Number of the rollout document that is followed.")] = 0
    others: Annotated[dict[str, str], msgspec.Meta(description="Arms that another model than the champion answers.")] = {}
    shadows: Annotated[list[str], msgspec.Meta(description="Models that score without answering.")] = []


class Problem(msgspec.Struct):
    """What was wrong; `field` is null where no single field is to blame."""

    field: str | None
    message: str


class ErrorAnswer(msgspec.Struct):
    """Body of every answer that is not a success."""

    error: Problem


LONGEST = 400  # of what an answer says: our own words, with a path in them, are shorter


class InvalidRequest(Exception):
    """The body can't be answered; `status` is 400 where it isn't JSON and 422 where a field is wrong."""

    def __init__(self, status: int, field: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.field, self.message = status, field and _shortened(field), _shortened(message)


def _shortened(text: str) -> str:
    """At most LONGEST characters: names in a body may be as long as the body, and an answer does not repeat all of that."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


class _RawContext(msgspec.Struct):
    context: dict[str, msgspec.Raw]


_DECODER = msgspec.json.Decoder(RankBody)
_RAW_CONTEXT = msgspec.json.Decoder(_RawContext)
_CONTEXT_VALUE: msgspec.json.Decoder[str | int | None] = msgspec.json.Decoder(Word | Whole | None)
_SOME_CONTEXT = "context[...]"  # msgspec's path to a value of a mapping
_NAMED = re.compile(r"(?:missing required|contains unknown) field `([^`]*)`")
_UNKNOWN: dict[str, str | int] = {"string": "", "int": -1}
_KINDS: dict[str, Kind] = {feature.name: feature.kind for feature in CONTEXT}
_STORED = {feature.name for view in VIEWS for feature in view.features} | {feature.name for feature in DERIVED}


def context_names(columns: Iterable[str]) -> tuple[str, ...]:
    """Which of a model's columns come with the request: those that no view stores and nothing derives, besides the two ids."""
    return tuple(name for name in columns if name not in _STORED and name not in ("user_id", "ad_id"))


def context_kinds(names: tuple[str, ...]) -> dict[str, Kind]:
    """The type of each context field: the catalogue's, or string for a field of the source's own."""
    return {name: _KINDS.get(name, "string") for name in names}


def decode(body: bytes) -> RankBody:
    """The body of POST /v1/rank, checked by itself.  Raises InvalidRequest."""
    try:
        return decode_as(_DECODER, body)
    except InvalidRequest as error:
        if error.field != _SOME_CONTEXT:
            raise
        raise InvalidRequest(error.status, _wrong_context(body), error.message) from None


def _wrong_context(body: bytes) -> str:
    """The first context field whose value is wrong, which msgspec does not say; "context" where the rest is no JSON."""
    try:
        given = _RAW_CONTEXT.decode(body).context
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "context"
    for name, value in given.items():
        try:
            _CONTEXT_VALUE.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return f"context.{name}"
    return "context"


def decode_as(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A request body, checked by itself.  Raises InvalidRequest."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(422, *blamed(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(400, None, f"the body is not JSON in UTF-8: {error}") from None
    except RecursionError:
        raise InvalidRequest(400, None, "the body is nested too deeply") from None


def blamed(message: str) -> tuple[str | None, str]:
    """(field, message) of msgspec's message, which ends in a path such as ' - at `$.candidates[0].bid`'."""
    text, _, path = message.partition(" - at `$")
    place = path.rstrip("`").lstrip(".")
    named = _NAMED.search(text)
    if named:
        place = f"{place}.{named[1]}" if place else named[1]
    return place or None, text


def to_request(body: RankBody, context: Mapping[str, Kind], max_candidates: int) -> RankRequest:
    """The request that a body asks, checked against what this server knows: its context fields and its limit.

    Raises InvalidRequest with status 422 and the field's name.
    """
    n = len(body.candidates)
    if n > max_candidates:
        raise InvalidRequest(422, "candidates", f"{n} candidates; this server takes {max_candidates} at most")
    ads, bids = _candidates(body.candidates)
    if len(set(ads)) < n:
        place = _second(ads)
        raise InvalidRequest(422, f"candidates[{place}]", f"ad {ads[place]} is there twice; give each candidate once")
    return RankRequest(
        user_id=-1 if body.user_id is None else body.user_id,
        ad_id=np.array(ads, np.int64),
        slots=body.slots,
        context=_context(body.context, context),
        bid=None if bids is None else np.array(bids, np.float32),
        request_id=body.request_id,
    )


def _candidates(given: Sequence[int | Candidate]) -> tuple[list[int], list[float] | None]:
    """The ads, and the bids where there are any."""
    kinds = set(map(type, given))
    if kinds == {int}:
        return cast(list[int], given), None
    if kinds == {Candidate}:
        with_bids = cast(list[Candidate], given)
        return [candidate.ad_id for candidate in with_bids], [candidate.bid for candidate in with_bids]
    first = type(given[0])
    place = next(place for place, candidate in enumerate(given) if type(candidate) is not first)
    raise InvalidRequest(422, f"candidates[{place}]", "either every candidate has a bid or none has")


def _second(ads: list[int]) -> int:
    """Where the first ad that was there before is there again."""
    seen: set[int] = set()
    for place, ad in enumerate(ads):
        if ad in seen:
            return place
        seen.add(ad)
    raise ValueError("every ad is there once")


def _context(given: Mapping[str, str | int | None], kinds: Mapping[str, Kind]) -> dict[str, str | int]:
    for name in given:
        if name not in kinds:
            raise InvalidRequest(422, f"context.{name}", f"not a context field here; there are {', '.join(kinds) or 'none'}")
    values: dict[str, str | int] = {}
    for name, kind in kinds.items():
        value = given.get(name)
        wanted = str if kind == "string" else int
        if value is None:
            value = _UNKNOWN[kind]
        elif not isinstance(value, wanted):
            raise InvalidRequest(422, f"context.{name}", f"must be {'a string' if wanted is str else 'a whole number'}")
        values[name] = value
    return values


def to_answer(request: RankRequest, answer: Answer, policy: str) -> RankAnswer:
    """What goes back to the caller."""
    slate = answer.slate
    k = len(slate.shown)
    rows: Any = zip(
        request.ad_id[slate.shown].tolist(),
        range(k),
        [derived_id_one(answer.request_id, slot) for slot in range(k)],
        answer.p.tolist(),
        answer.s[slate.shown].tolist(),
        slate.propensity.tolist(),
        strict=True,
    )
    marks = answer.marks
    return RankAnswer(
        answer.request_id,
        answer.arm,
        answer.model,
        policy,
        slate.randomised,
        [ShownAd(*row) for row in rows],
        AnswerMarks(
            "known" if marks.user_known else "unknown",
            list(marks.unknown_ads),
            list(marks.missing),
            list(marks.stale),
            marks.degraded,
        ),
    )
