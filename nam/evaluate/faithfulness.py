"""Ground truth for attributions: what an answer loses when one neuron at a time is ablated.

An ablation is exact (`nam.reduction.ablated`); a probe says what of the answer it takes away. Effects are
what was there before less what is there after: positive for a neuron that the target would miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nam.errors import InputError
from nam.evaluate.agreement import pearson, recall_at, spearman
from nam.reduction.ablated import Ablated, Positions, ablate
from nam.types import NeuronSet

if TYPE_CHECKING:
    from nam.reduction.base import Context

#: Effects of the neurons of a model by name, float32 (L, d); NaN where nothing was measured.
Effects = dict[str, NDArray[np.float32]]


class Probe(Protocol):
    """Turns last hidden states into effects.

    Attributes:
        names: Of its effects.
        settings: What they depend on besides model, answer and target: a part of a cache's key.
        positions: Where a neuron is ablated: at the target's positions, or at all.
    """

    @property
    def positions(self) -> Positions: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def settings(self) -> tuple[object, ...]: ...

    def __call__(self, context: Context, plain: Tensor, hidden: Tensor) -> Mapping[str, Tensor]:
        """Effects (n,) of each name, for hidden states plain (P, H) and, each with one neuron less,
        hidden (n, P, H)."""


@dataclass(frozen=True)
class TextProbe:
    """What the tokens that were produced lose, the mean over the target's positions: of their `logit`, and of
    their log-probability, `logprob` (nats).

    Attributes:
        positions: Where neurons are ablated; effects of ablation at all positions are named `..._everywhere`.
    """

    positions: Positions = "target"
    settings: tuple[object, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        suffix = "" if self.positions == "target" else "_everywhere"
        return f"logit{suffix}", f"logprob{suffix}"

    def __call__(self, context: Context, plain: Tensor, hidden: Tensor) -> Mapping[str, Tensor]:
        if context.target.modality != "text":
            raise InputError("expected the target of a word to probe its logit, got that of a picture")
        unembedding = context.mllm.unembedding
        ids = torch.tensor(context.target.token_ids, device=unembedding.device)[:, None]

        def read(states: Tensor) -> tuple[Tensor, Tensor]:
            # In double precision: the loss of a weak neuron is a small difference of large logits.
            logits = (states.to(unembedding) @ unembedding.T).double()
            own = logits.gather(-1, ids.expand(*logits.shape[:-1], 1))[..., 0]
            return own.mean(-1), (own - logits.logsumexp(-1)).mean(-1)

        before, after = read(plain), read(hidden)
        return {name: b - a for name, b, a in zip(self.names, before, after, strict=True)}


@torch.no_grad()
def effects_of(
    context: Context, probe: Probe, neurons: NeuronSet | None = None, *, batch: int = 512
) -> Effects:
    """The effects of each neuron by itself, by zero ablation at the positions of the probe.

    What changes no hidden state has the effect 0 and is not probed.

    Args:
        context: The answer and the target.
        probe: What is measured.
        neurons: Which; None for all.
        batch: Tokens of the language model that are computed together.

    Raises:
        InputError: the model has no such neuron.
    """
    layers, _, width = context.activations.shape
    found = {name: np.full((layers, width), np.nan, np.float32) for name in probe.names}
    for ablated in ablate(context, neurons, positions=probe.positions, batch=batch):
        for index, values in _probed(context, probe, ablated):
            for name in probe.names:
                where = ablated.layers[index].numpy(), ablated.units[index].numpy()
                found[name][where] = values[name]
    return found


def _probed(
    context: Context, probe: Probe, ablated: Ablated
) -> Iterator[tuple[Tensor, Mapping[str, NDArray[np.float32]]]]:
    """Places in `ablated` and their effects: first those that changed nothing."""
    moved = (ablated.hidden != ablated.plain).flatten(1).any(1).cpu()
    still = (~moved).nonzero()[:, 0]
    yield still, {name: np.zeros(len(still), np.float32) for name in probe.names}
    there = moved.nonzero()[:, 0]
    if len(there):
        values = probe(context, ablated.plain, ablated.hidden[there.to(ablated.hidden.device)])
        yield there, {name: values[name].to("cpu", torch.float32).numpy() for name in probe.names}


#: Effects that are sizes, without a sign.
UNSIGNED = ("change", "proxy_change")


def agreement(
    scores: NDArray[np.float32],
    effects: NDArray[np.float32],
    *,
    name: str,
    ks: tuple[int, ...],
    weights: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """How far scores (L, d) agree with effects (L, d): `pearson[name]`, `spearman[name]`, `recall@k[name]`.

    Neurons without an effect (NaN) are left out. Effects that are sizes (`UNSIGNED`) are held against the
    sizes of scores that take both signs. Scores that are the same for all neurons correlate with nothing: 0.

    Args:
        scores: Of a method.
        effects: The truth.
        name: Of the effect.
        ks: Sizes of the tops that recall compares; left out are those above half of the neurons, and those
            below three times the largest weight: where the k-th place is inside one that stands for many,
            even the true order would fall short of 1 (by up to a twelfth at that limit).
        weights: How many neurons each stands for, (L, d); None for 1 each.

    Raises:
        InputError: fewer than two neurons have an effect, or a score is not finite.
    """
    known = np.isfinite(effects)
    truth, given = effects[known], scores[known]
    w = None if weights is None else weights[known]
    if name in UNSIGNED and given.min() < 0 < given.max():
        given = np.abs(given)
    count = float(truth.size if w is None else w.sum())
    found = {
        f"pearson[{name}]": pearson(given, truth, weights=w),
        f"spearman[{name}]": spearman(given, truth, weights=w),
    }
    found = {measure: 0.0 if np.isnan(value) else value for measure, value in found.items()}
    least = 1.0 if w is None or w.max() <= 1 else 3 * float(w.max())
    for k in ks:
        if least <= k <= count / 2:
            found[f"recall@{k}[{name}]"] = recall_at(given, truth, k, weights=w)
    return found
