"""The gRPC door's requests and answers: between the messages of `clickproof.proto` and those of `serving.messages`.

Used by `serving.grpc_door`.  Values are held to the same limits as in JSON, by the same types, and blamed in the same words.
"""

from typing import Annotated

import msgspec
from google.protobuf.message import DecodeError

from serving import clickproof_pb2 as pb
from serving.messages import Candidate, Id, InvalidRequest, Price, RankAnswer, RankBody, Whole, Word, blamed
from serving.rank_handler import Wire


class Asked(msgspec.Struct, kw_only=True):
    """What a `RankRequest` message holds, with the limits that its types leave open."""

    candidates: Annotated[list[Id], msgspec.Meta(min_length=1)]
    bids: list[Price]
    slots: Annotated[int, msgspec.Meta(ge=1)]
    user_id: Id | None
    context: dict[str, Word | Whole | None]
    request_id: Id | None


def decode(body: bytes) -> RankBody:
    """A `RankRequest` message, checked by itself.  Raises InvalidRequest."""
    try:
        message = pb.RankRequest.FromString(body)
    except DecodeError as error:
        raise InvalidRequest(400, None, f"this is not a clickproof.v1.RankRequest: {error}") from None
    given = {
        "candidates": list(message.candidates),
        "bids": list(message.bids),
        "slots": message.slots,
        "user_id": message.user_id if message.HasField("user_id") else None,
        "context": {name: _value(value) for name, value in message.context.items()},
        "request_id": message.request_id if message.HasField("request_id") else None,
    }
    try:
        asked = msgspec.convert(given, Asked)
    except msgspec.ValidationError as error:
        raise InvalidRequest(422, *blamed(str(error))) from None
    ads, bids = asked.candidates, asked.bids
    if bids and len(bids) != len(ads):
        raise InvalidRequest(
            422, "bids", f"{len(bids)} bids for {len(ads)} candidates; give each candidate one, or none at all"
        )
    return RankBody(
        candidates=[Candidate(ad, bid) for ad, bid in zip(ads, bids, strict=True)] if bids else [*ads],
        slots=asked.slots,
        user_id=asked.user_id,
        context=asked.context,
        request_id=asked.request_id,
    )


def _value(given: pb.ContextValue) -> str | int | None:
    kind = given.WhichOneof("value")
    return None if kind is None else getattr(given, kind)


def encode(answer: RankAnswer) -> bytes:
    """A `RankAnswer` message."""
    marks = answer.marks
    message = pb.RankAnswer(
        request_id=answer.request_id,
        arm=answer.arm,
        model=answer.model,
        policy=answer.policy,
        randomised=answer.randomised,
        ads=[
            pb.ShownAd(ad_id=ad.ad_id, slot=ad.slot, impression_id=ad.impression_id, p=ad.p, s=ad.s, propensity=ad.propensity)
            for ad in answer.ads
        ],
        marks=pb.AnswerMarks(
            user=marks.user,
            unknown_ads=marks.unknown_ads,
            missing=marks.missing,
            stale=marks.stale,
            degraded=marks.degraded,
        ),
    )
    return message.SerializeToString()


GRPC = Wire("grpc", decode, encode)
