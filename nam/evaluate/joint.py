"""What is left of a concept when sets of neurons are ablated together: in the words, and in the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nam.errors import InputError, nearest
from nam.evaluate.drawn import drawer_of_truth, drawn_by
from nam.evaluate.judge import Judge
from nam.hooks import Intervention, Visit
from nam.mllm.pictures import to_picture
from nam.types import NeuronSet
from nam.world.scene import NOUNS

if TYPE_CHECKING:
    from nam.reduction.ablated import Positions
    from nam.reduction.base import Context

#: A classifier's evidence for a concept in pictures, uint8 (B, H, W, 3): (B,), the higher the surer.
Evidence = Callable[[NDArray[np.uint8]], Tensor]


def text_probability(
    context: Context,
    sets: Sequence[NeuronSet],
    *,
    baseline: Tensor | None = None,
    positions: Positions = "target",
    batch: int = 32,
) -> Tensor:
    """The probability that a form of the concept comes next, the mean over the target's positions: (n,).

    Args:
        context: An answer, and a target of text.
        sets: Which neurons are ablated together, n times.
        baseline: What an activation becomes, (L, d); None for 0.
        positions: Where it does: at the target's positions, or at all up to its last.
        batch: Sets that are computed at once.

    Raises:
        InputError: the target is of a picture, or the model has no such neuron.
    """
    target, mllm = context.target, context.mllm
    if target.modality != "text":
        raise InputError("expected the target of a word to read its probability, got that of a picture")
    weight = mllm.unembedding
    forms = torch.tensor(sorted(target.form_ids | set(target.token_ids)), device=weight.device)
    found = []
    for hidden in ablated_together(context, sets, baseline=baseline, positions=positions, batch=batch):
        logits = (hidden.to(weight) @ weight.T).double()
        share = logits.index_select(-1, forms).logsumexp(-1) - logits.logsumexp(-1)
        found.append(share.exp().mean(-1).cpu())
    return torch.cat(found)


def picture_evidence(
    context: Context,
    sets: Sequence[NeuronSet],
    *,
    region: NDArray[np.bool_],
    evidence: Evidence,
    baseline: Tensor | None = None,
    positions: Positions = "target",
    batch: int = 16,
) -> Tensor:
    """The evidence for the concept in the region of the picture, drawn again by the whole sampler: (n,).

    It is drawn from the same noise. Outside the region the judged picture is the one that was drawn first,
    so that nothing there can speak for the concept, or against it.

    Args:
        context: An answer with a picture, and its target, at the [IMG] positions.
        sets, baseline, positions: As in `text_probability`.
        region: Where the concept is, bool (H, W) of the picture's size.
        evidence: An independent classifier's, such as `noun_evidence` gives.
        batch: Pictures that are drawn at once.

    Raises:
        InputError: nothing was drawn, the target is of a word, or the region is empty or of another size.
        ConfigError, ModelError: the model does not draw, or no longer as it did.
    """
    generation, drawer = context.generation, drawer_of_truth(context.mllm)
    settings = drawn_by(drawer, generation)
    if context.target.modality != "image" or generation.image is None:
        raise InputError("expected the target of a picture to read evidence, got that of a word")
    before = np.asarray(generation.image.convert("RGB"))
    if region.dtype != np.bool_ or region.shape != before.shape[:2] or not region.any():
        raise InputError(
            f"expected a bool mask of shape {before.shape[:2]} with something in it, "
            f"got {region.dtype} {region.shape}"
        )
    found = []
    for hidden in ablated_together(context, sets, baseline=baseline, positions=positions, batch=batch):
        noise = drawer.diffusion.noise([generation.seed] * len(hidden), like=hidden)
        with torch.no_grad():
            pixels = drawer.render(hidden, noise, settings)
        pictures = np.stack([np.asarray(to_picture(one)) for one in pixels])
        found.append(evidence(np.where(region[..., None], pictures, before)).double().cpu())
    return torch.cat(found)


def noun_evidence(judge: Judge, noun: str) -> Evidence:
    """The judge's log-odds that a noun of the scenes is there.

    Raises:
        InputError: it is none of them.
    """
    if noun not in NOUNS:
        raise InputError(f"the judge knows no {noun!r} ({nearest(noun, NOUNS)})")
    column = NOUNS.index(noun)
    return lambda pictures: judge.evidence(pictures)[:, column]


def ablated_together(
    context: Context,
    sets: Sequence[NeuronSet],
    *,
    baseline: Tensor | None = None,
    positions: Positions = "target",
    batch: int = 32,
) -> Iterator[Tensor]:
    """Last hidden states at the target's P positions, (at most `batch`, P, H), of one set after the other.

    Arguments as in `text_probability`; an empty set ablates nothing.

    Raises:
        InputError: there is no set, or the model has no such neuron.
    """
    if not sets:
        raise InputError("expected at least one set of neurons to ablate")
    mllm, wanted = context.mllm, context.target.positions
    last = wanted[-1] + 1
    where = wanted if positions == "target" else tuple(range(last))
    generation = context.generation.until(last)
    for start in range(0, len(sets), batch):
        some = sets[start : start + batch]
        watch = Intervention(mllm, change=_change(context, some, baseline), where=[where] * len(some))
        with torch.no_grad():
            replayed = mllm.replay([generation] * len(some), record=watch)
        yield replayed.hidden[:, [replayed.offsets[0] + position for position in wanted]]


def _change(
    context: Context, sets: Sequence[NeuronSet], baseline: Tensor | None
) -> Callable[[Visit], Tensor]:
    """Puts each row's own neurons to their baseline."""
    sites = context.mllm.ffn_sites
    off = torch.zeros(len(sites), len(sets), sites[0].width, dtype=torch.bool)
    for row, neurons in enumerate(sets):
        for neuron in neurons:
            if neuron.layer >= len(sites) or neuron.unit >= sites[0].width:
                raise InputError(f"there is no neuron {neuron} in {len(sites)} layers of {sites[0].width}")
            off[neuron.layer, row, neuron.unit] = True

    def change(visit: Visit) -> Tensor:
        values = visit.values
        mine = off[visit.layer][list(visit.rows)].to(values.device)
        rest = torch.zeros_like(values[0]) if baseline is None else baseline[visit.layer].to(values)
        return torch.where(mine, rest, values)

    return change
