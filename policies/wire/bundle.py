"""How do several messages travel as one?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from policies.types import Buffer, Reason
from policies.update import ModelSchema
from policies.wire.message import HEADER_LEAST_BYTES, most_bytes
from policies.wire.reader import Reader, WireError, leb128

MAGIC: Final = b"LB"
MOST_MESSAGES: Final = 65_536
"""Most messages in a bundle."""


def pack_bundle(messages: Sequence[Buffer]) -> Buffer:
    """Write a magic, then messages one after the other, each behind its length.

    Raises:
        ValueError: If they are too many.
    """
    if len(messages) > MOST_MESSAGES:
        raise ValueError(f"a bundle holds at most {MOST_MESSAGES} messages, not {len(messages)}")
    pieces: list[Buffer] = [np.frombuffer(MAGIC, dtype=np.uint8)]
    for message in messages:
        pieces += [np.frombuffer(leb128([message.size]), dtype=np.uint8), message]
    return np.concatenate(pieces)


def open_bundle(bundle: Buffer, schema: ModelSchema) -> list[Buffer]:
    """Return the messages, each a view, not yet read.

    Raises:
        WireError: If it is no bundle, a length is none that a message over this schema has, the
            bundle ends early, or they are too many.
    """
    reader, most = Reader(bundle), most_bytes(schema)
    messages: list[Buffer] = []
    if bundle[:2].tobytes() != MAGIC:
        raise WireError(Reason.MALFORMED, f"magic {bundle[:2].tobytes()!r}, not LB")
    reader.take(2)
    while reader.left:
        if len(messages) == MOST_MESSAGES:
            raise WireError(Reason.OVERSIZED, f"more than {MOST_MESSAGES} messages")
        size = reader.number()
        if size > most:
            raise WireError(Reason.OVERSIZED, f"{size} bytes where {most} are the most")
        if size < HEADER_LEAST_BYTES:
            raise WireError(Reason.MALFORMED, f"{size} bytes are no header")
        messages.append(reader.take(size))
    return messages
