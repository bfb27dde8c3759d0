"""Bodies of POST /v1/events as msgspec structs.  Used by `serving.events`, and by `serving.document` to describe them."""

from datetime import datetime
from typing import Annotated

import msgspec

from serving.messages import Id, Whole

MAX_CLICKS = 1000  # in one request: they fit the default CLICKPROOF_MAX_BODY_BYTES with all fields, at 120 bytes each

# JavaScript rounds whole numbers above 2**53, and ids go up to 2**63.
TextId = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,19}$", description="The id in decimal digits.")]
Moment = Annotated[datetime, msgspec.Meta(tz=True, description="ISO 8601 with its offset.")]


class SentClick(msgspec.Struct, forbid_unknown_fields=True):
    """A click on an ad that was shown."""

    impression_id: Id | TextId
    time: Annotated[
        Whole | Moment | None,
        msgspec.Meta(
            description="Microseconds since 1970, UTC, or text; at most a minute after the server's clock, or seven days "
            "before it.  Left out: now."
        ),
    ] = None
    click_id: Annotated[
        Id | TextId | None, msgspec.Meta(description="The same whenever it is sent; made of impression_id where left out.")
    ] = None


class SentClicks(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/events; one click may also be sent as it is."""

    clicks: Annotated[list[SentClick], msgspec.Meta(min_length=1, max_length=MAX_CLICKS)]


class Receipt(msgspec.Struct):
    """Answer of POST /v1/events: every click of the request is in one of the two, and survives the death of the server."""

    accepted: int
    duplicate: Annotated[int, msgspec.Meta(description="Had come before, and were not written again.")]
