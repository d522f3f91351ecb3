"""NAM with the indirect paths: the target's direction pulled back to every neuron through the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from nam.errors import InputError, ModelError
from nam.mllm.norm import HeldNorm, read_final_norm
from nam.reduction.ablated import ablated_hidden
from nam.reduction.base import Context, Method, Needs
from nam.reduction.baseline import Baseline, activations_of
from nam.reduction.constants import once
from nam.reduction.functional import final_score
from nam.reduction.gradxact import gradients_by_batch
from nam.reduction.linearise import Rules, linearised
from nam.types import Neuron, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM


@dataclass(frozen=True, kw_only=True)
class NamTotal(Method):
    """What the target loses when a neuron alone is ablated at its positions, by direct and indirect paths.

    y sums <u, h> over the target's positions; u is a word's unembedding row, or the region's relevance R. One
    backward pass pulls u back through final norm and layers to a direction v = dy/da of each neuron. With
    a - b what ablation takes away, (a - b) v is the effect to first order. To second order the final norm
    counts most: the stream has another variance without the neuron's write (a - b) w, and every logit another
    scale. With rho that write's share of the variance, and y one position's value (less the norm's bias),

        s = y - (y - (a - b) v) / sqrt(1 + rho),   rho = (a - b)^2 |centre(w)|^2 / (H scale^2).

    The covariance of write and stream is of first order, and in v. Scores are averaged over the positions.

    Args:
        baseline: b: "zero", or the neuron's "mean" over a reference set.
        final_norm: "secant" is the formula above; "exact" has rho = 0; "held" has a constant scale in v too.
        norms: Of the layers, in v: their "exact" derivative, or their scales "held".
        attention: In v: its "exact" derivative, or the patterns "held".
        nonlinearity: In v: its "exact" derivative, or the "slope" f(x)/x.
        gate: In v: its "exact" derivative, or "half" to each side; gated FFNs only.
        rerun: This many neurons of each target, those that write most in layers that others follow, are
            ablated exactly instead: it is for them that higher orders count.
        activation_branch: Eq. 4: log max(softmax(s), softmax(a)) in place of s.
        region: For pictures, use the region's relevance (meant to be signed), or 1 in every dimension.
        batch: Generations that are replayed together.
    """

    name: ClassVar[str] = "nam_total"
    needs: ClassVar[Needs] = Needs(backward=True, signed=True)

    baseline: Baseline = "zero"
    final_norm: Literal["secant", "exact", "held"] = "secant"
    norms: Literal["held", "exact"] = "exact"
    attention: Literal["held", "exact"] = "exact"
    nonlinearity: Literal["slope", "exact"] = "exact"
    gate: Literal["half", "exact"] = "exact"
    rerun: int = 0
    activation_branch: bool = False
    region: bool = True
    batch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole(batch=1, rerun=0)

    def _rules(self) -> Rules:
        return Rules(
            norms=self.norms,
            final_norm="held" if self.final_norm == "held" else "exact",
            attention=self.attention,
            nonlinearity=self.nonlinearity,
            gate=self.gate,
        )

    def _score_batch(self, contexts: Sequence[Context]) -> list[Tensor]:
        mllm = contexts[0].mllm
        norm = _final_norm(contexts[0]) if self.final_norm == "secant" else None
        with linearised(mllm, self._rules()):
            found = list(gradients_by_batch(contexts, region=self.region, batch=self.batch))
        written = once(mllm, ("written", norm is None), lambda: _squares(mllm, norm, like=found[0]))[:, None]
        return [self._score_one(*pair, norm, written) for pair in zip(contexts, found, strict=True)]

    def _score_one(self, context: Context, v: Tensor, norm: HeldNorm | None, written: Tensor) -> Tensor:
        baseline = activations_of(self.baseline, context, method=self.name)
        change = context.activations
        if baseline is not None:
            change = change - baseline.to(change)[:, None]
        sizes = change.square() * written
        s = change * v
        if norm is not None:
            s = self._secant(context, norm, s, sizes)
        s = s.mean(1)
        if self.rerun:
            self._ablate(context, baseline, s, sizes.mean(1))
        return final_score(s, context.activations.mean(1)) if self.activation_branch else s

    def _secant(self, context: Context, norm: HeldNorm, first: Tensor, sizes: Tensor) -> Tensor:
        """From the effect to first order and |centre((a - b) w)|^2 to the effect s; all (L, P, d)."""
        if context.stream is None:
            raise InputError("final_norm=secant needs what enters the final norm, which was not recorded")
        y = (context.directions(norm="fold", region=self.region) * context.stream).sum(1)
        rho = sizes / (norm.scale(context.stream).square() * len(norm.gain))
        shrink = torch.expm1(-0.5 * torch.log1p(rho))  # 1 / sqrt(1 + rho) - 1, also for small shares
        return first + shrink * (first - y[:, None])

    def _ablate(self, context: Context, baseline: Tensor | None, s: Tensor, sizes: Tensor) -> None:
        """Put the exact effect into `s` (L, d) for the neurons of the largest `sizes` (L, d)."""
        followed = sizes[:-1]
        width = sizes.shape[1]
        top = followed.flatten().topk(min(self.rerun, followed.numel())).indices.tolist()
        neurons = NeuronSet.of(Neuron(*divmod(index, width)) for index in top)
        found = ablated_hidden(context, neurons, baseline=baseline)
        s[found.layers, found.units] = found.lost(context.after_norm(region=self.region))


def _final_norm(context: Context) -> HeldNorm:
    try:
        return read_final_norm(context.mllm)
    except ModelError as error:
        raise ModelError(f"final_norm=secant: {error}; set reduction.nam_total.final_norm=exact") from error


def _squares(mllm: MLLM, norm: HeldNorm | None, *, like: Tensor) -> Tensor:
    """|centre(w)|^2 of every value vector, (L, d); |w|^2 for no norm."""
    sizes = []
    for site in mllm.ffn_sites:
        vectors = site.value_vectors.detach().to(like).T
        sizes.append((vectors if norm is None else norm.centre(vectors)).square().sum(1))
    return torch.stack(sizes)
