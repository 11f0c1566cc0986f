"""What is not sent: is it lost, or added the next time?

Error feedback in three steps: ``a = e + D``, send some of ``a``, ``e = a - sent``. The state
decides: a client that keeps none has no feedback.
"""

from __future__ import annotations

import numpy as np

from policies.types import Arrays, Vector
from policies.update import Base, ModelSchema, Sparse

RESIDUAL = "residual"


def nothing_left(schema: ModelSchema) -> Arrays:
    """Return the state before the first update: a residual of zeros, shape (P,)."""
    return {RESIDUAL: np.zeros(schema.parameters, dtype=np.float32)}


def difference(weights: Vector, base: Vector) -> Vector:
    """Return ``D = weights - base``, a new array; what has diverged stays NaN or infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.subtract(weights, base)


def wanted(weights: Vector, base: Base, state: Arrays) -> Vector:
    """Return ``a = D + e``, a new array, shape (P,); without a residual, D alone.

    Under a mask it is 0 outside: what is left over for a parameter that is gone is gone.
    """
    total = difference(weights, base.values)
    if RESIDUAL in state:
        with np.errstate(invalid="ignore", over="ignore"):
            total += state[RESIDUAL]
    return alive(total, base)


def alive(total: Vector, base: Base) -> Vector:
    """Set what lies outside the base's mask to 0, in place; return it."""
    if base.mask is not None:
        kept = total[base.mask.positions]
        total[:] = 0
        total[base.mask.positions] = kept
    return total


def left_over(total: Vector, sent: Sparse, state: Arrays) -> Arrays:
    """Return the next state: ``e = a - sent``, as received.

    Args:
        total: What `wanted` returned; becomes the residual, in place.
        sent: Values as the server receives them.
        state: The state before; without a residual it stays.
    """
    if RESIDUAL not in state:
        return state
    with np.errstate(invalid="ignore", over="ignore"):
        total[sent.positions] -= sent.values
    return {RESIDUAL: total}
