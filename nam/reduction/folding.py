"""The final norm between a neuron and the target, for the methods that leave the choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nam.errors import ModelError
from nam.mllm.norm import HeldNorm, read_final_norm

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: The final norm between a neuron and the target: left out as in the paper, or folded into the direction with
#: each position's scale held, so that neurons and the rest add up to the true logit.
Norm = Literal["ignore", "fold"]


def norm_to_fold(mllm: MLLM) -> HeldNorm:
    """The model's final norm, for a method with norm=fold.

    Raises:
        ModelError: it cannot be folded; the message names the option.
    """
    try:
        return read_final_norm(mllm, straight=False)
    except ModelError as error:
        raise ModelError(f"norm=fold: {error}; set norm=ignore") from error
