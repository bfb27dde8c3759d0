"""Whether some bytes are one plain request for a slate, whole: told by its head alone, which is not parsed.

For `serving.front_door`, where too many wait.  What is not plain takes the usual way, where a parser says what it is.  Nothing
is said about the body but that it is there.
"""

import re

# Whoever sets one of these wants more than a slate, or might mean another length than the one that is read here.
_SPECIAL = rb"(?:content-length|transfer-encoding|expect|upgrade|connection(?!: ?keep-alive\r\n))[ \t]*:"
_OTHERS = rb"(?:(?!%s)[-\w]+:[^\r\n\0]*\r\n)*" % _SPECIAL
_HEAD = re.compile(
    rb"(?-i:POST /v1/rank HTTP/1\.1)\r\n" + _OTHERS + rb"content-length: ?(\d{1,9})\r\n" + _OTHERS + rb"\r\n", re.IGNORECASE
)


def is_whole(data: bytes) -> bool:
    """Whether this is one whole POST /v1/rank in HTTP/1.1 on a connection that is to be kept, and nothing behind it."""
    head = _HEAD.match(data)
    return head is not None and head.end() + int(head[1]) == len(data)
