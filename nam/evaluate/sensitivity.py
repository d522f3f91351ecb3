"""Semantic sensitivity: whether a concept's neurons tell that it is there, and how large it is.

The paper's abstract names it and never defines it. Here it is the AUROC of a neuron's activation for the
concept's presence over scenes, and the activation's slope with the thing's size where it is present.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nam.errors import InputError
from nam.hooks import Recorder
from nam.types import Generation, Neuron

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Of k neurons over scenes, float64 (k,) each.

    Attributes:
        auroc: Probability that a scene with the concept activates the neuron more than one without; a draw
            counts half.
        slope: Change of the activation, in its standard deviations over all scenes, when the thing grows by
            one standard deviation of its size; NaN for a neuron that never changes.
    """

    auroc: NDArray[np.float64]
    slope: NDArray[np.float64]


def sensitivity(
    activations: NDArray[np.floating], *, present: NDArray[np.bool_], sizes: NDArray[np.floating]
) -> Sensitivity:
    """Sensitivity of neurons to a concept.

    Args:
        activations: (scenes, k).
        present: Whether each scene shows the concept, (scenes,).
        sizes: The share of the picture that the thing covers, (scenes,); read where it is present.

    Raises:
        InputError: shapes that do not fit, values that are not finite, no scene with or without the concept,
            or things all of one size.
    """
    values = np.asarray(activations, dtype=np.float64)
    there, shown = np.asarray(present, dtype=bool), np.asarray(sizes, dtype=np.float64)
    if values.ndim != 2 or there.shape != (len(values),) or shown.shape != there.shape:
        raise InputError(
            "expected activations (scenes, k), presence and sizes (scenes,), "
            f"got {values.shape}, {there.shape} and {shown.shape}"
        )
    if not (np.isfinite(values).all() and np.isfinite(shown[there]).all()):
        raise InputError("an activation or a size is NaN or infinite")
    if there.all() or not there.any():
        raise InputError(
            f"expected scenes with and without the concept, {there.sum()} of {len(there)} have it"
        )
    return Sensitivity(_auroc(values, there), _slope(values, there, shown[there]))


def activations_of(
    mllm: MLLM, generations: Sequence[Generation], neurons: Sequence[Neuron], *, positions: str = "answer"
) -> NDArray[np.float32]:
    """Activations of neurons in finished generations, (generations, k), each averaged over its positions.

    Args:
        mllm: The model.
        generations: What it answered.
        neurons: Whose activations.
        positions: A part of the sequence: "picture", "text", "answer" or "img" (see `nam.types.Spans`);
            "ask" for the prompt's last position, which comes before anything of the answer.

    Raises:
        InputError: there is no generation, or one has no such positions.
    """
    if not generations:
        raise InputError("expected at least one generation to read activations of")
    where = [_positions(generation, positions) for generation in generations]
    read = sorted({neuron.layer for neuron in neurons})
    places = torch.tensor([read.index(neuron.layer) for neuron in neurons], device=mllm.device)
    units = torch.tensor([neuron.unit for neuron in neurons], device=mllm.device)
    found: list[Tensor] = []
    for start in range(0, len(generations), _BATCH):
        recorder = Recorder(mllm, where=where[start : start + _BATCH], layers=read)
        with torch.no_grad():
            mllm.replay(generations[start : start + _BATCH], record=recorder)
        found += [one.activations.mean(1)[places, units] for one in recorder.recorded]
    table: NDArray[np.float32] = torch.stack(found).float().cpu().numpy()
    return table


def _positions(generation: Generation, part: str) -> list[int]:
    spans = generation.spans
    known = {"picture": spans.picture, "text": spans.text, "answer": spans.answer, "img": spans.img}
    if part == "ask":
        return [spans.answer.start - 1]
    if part not in known:
        raise InputError(f"positions must be ask, {', '.join(known)}; got {part!r}")
    if not len(known[part]):
        raise InputError(f"a generation has no positions of its {part}: {generation.prompt!r}")
    return list(known[part])


def _auroc(values: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    from scipy.stats import rankdata
    from torchmetrics.functional.classification import binary_auroc

    # Ranks keep every order and every draw; torchmetrics would squash activations beyond 1 by a sigmoid.
    ranks = torch.from_numpy(rankdata(values, method="dense", axis=0))
    labels = torch.from_numpy(present).long()
    return np.array([float(binary_auroc(column / column.max(), labels)) for column in ranks.T])


def _slope(
    values: NDArray[np.float64], present: NDArray[np.bool_], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least squares, both sides in standard deviations."""
    spread = values.std(axis=0)
    grown = sizes - sizes.mean()
    if not grown.any():
        raise InputError("the slope needs things of different sizes, all have the same")
    covariance = (grown[:, None] * values[present]).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, covariance / (grown.std() * spread), np.nan)
