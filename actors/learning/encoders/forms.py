"""What do the blocks of a transformer cost, with or without parts that are put in?"""

from __future__ import annotations

from actors.learning.encoders.base import Cost, Cut, Form, summed
from actors.learning.modelling import linear_flops, linear_parameters
from policies.memory import FLOAT_BYTES


def transformer_cuts(
    embedding: Cost, form: Form, *, prompt: int = 0, rank: int = 0
) -> tuple[Cut, ...]:
    """Return where a transformer may be cut.

    Args:
        embedding: What the embedding costs.
        form: Of the blocks.
        prompt: Tokens that are put in before the first block.
        rank: Of the products that are added to the attention's projections.
    """
    last = form.width + form.columns
    longer = (form.tokens + prompt, last)
    first, *others = [block(form, form.tokens + prompt, rank)] * form.blocks
    first = first._replace(parameters=first.parameters + prompt * form.width)
    smashed = [(form.tokens, last), *[longer] * form.blocks]
    return summed(smashed, [embedding, first, *others])


def block(form: Form, tokens: int, rank: int = 0) -> Cost:
    """Return what a block costs for so many tokens.

    Of each token it leaves its input, the norm's output or the other norm's input, queries, keys,
    values, their mixture, both inputs of the second half, and twice the width inside; besides
    two numbers a norm, one a head and the mask. Behind each first product of rank `rank` that many
    more.
    """
    width = form.width
    attention = (width, 3 * width), (width, width)
    inside = (width, form.feedforward, width)
    layers = (*attention, inside)
    flops = tokens * sum(linear_flops(one) for one in layers) + 2 * 2 * tokens**2 * width
    parameters = sum(linear_parameters(one) for one in layers) + 2 * 2 * width
    floats = 8 * width + 2 * form.feedforward + form.heads + 2 * 2 + form.columns + 2 * rank
    added = 6 * rank * width
    return Cost(flops + 2 * tokens * added, parameters + added, FLOAT_BYTES * tokens * floats)
