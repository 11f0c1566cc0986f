"""What crosses the network?

The format is specified in docs/wire-format.md.
"""

from policies.wire.message import (
    HEADER_LEAST_BYTES,
    Header,
    Message,
    WireError,
    check_finite,
    decode,
    encode,
    entropy_bytes,
    least_bytes,
    most_bytes,
)
from policies.wire.state import StateLayout

__all__ = [
    "HEADER_LEAST_BYTES",
    "Header",
    "Message",
    "StateLayout",
    "WireError",
    "check_finite",
    "decode",
    "encode",
    "entropy_bytes",
    "least_bytes",
    "most_bytes",
]
