"""Which neurons to edit: the top of a ranking, by modality, and controls to hold it against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nam.checks import require_choices, whole
from nam.editor.delta import EditError
from nam.errors import ConfigError
from nam.types import Modality, Neuron, NeuronSet

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

#: Which ranking counts: the words' (T), the pictures' (I), the best rank in either, the worse rank of both,
#: or one's top without the other's.
Kind = Literal["text", "image", "both", "intersection", "text_without_image", "image_without_text"]

#: How neurons are ranked: by an attribution method; most active; or at random, as many in each layer as the
#: method would take there. "layer" takes every neuron of the layers allowed.
By = Literal["method", "active", "random", "layer"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """What neurons are ranked by, for one concept and modality.

    Attributes:
        scores: Mean score by an attribution method, (L, d).
        activations: Mean activation, (L, d).
    """

    scores: Tensor
    activations: Tensor


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which neurons, and how many.

    Attributes:
        k: Number of neurons.
        by: How they are ranked.
        kind: Which modality's ranking counts.
        layers: First and last layer allowed; None for all.
        seed: Of the random control.
    """

    k: int = 32
    by: By = "method"
    kind: Kind = "image"
    layers: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        whole("edit.k", self.k, least=1, error=ConfigError)
        require_choices(self, "edit.select")
        whole("edit.select.seed", self.seed, least=0, error=ConfigError)
        if self.layers is not None and not _range(self.layers):
            raise ConfigError(
                f"edit.select.layers must be [first, last], both from 0, got {list(self.layers)}"
            )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The rankings that are needed."""
        found: dict[str, tuple[Modality, ...]] = {"text": ("text",), "image": ("image",)}
        return found.get(self.kind, ("text", "image"))

    def facts(self, method: str, *, contrast: bool, samples: int | None) -> dict[str, Any]:
        """How neurons were selected, as the manifest of a delta says it, in plain JSON values.

        Args:
            method: Whose scores ranked them.
            contrast: As in `nam.editor.ranking.rankings_of`.
            samples: Requests of each concept that were attributed for it; None for a finished run's.
        """
        layers = None if self.layers is None else list(self.layers)
        if self.by == "layer":
            return {"selection": {"by": self.by, "layers": layers}}
        chosen = {**vars(self), "layers": layers, "contrast": contrast, "samples": samples}
        return {"selection": chosen, "method": method}


def _range(layers: Sequence[object]) -> bool:
    """Whether these are two layers, in order."""
    numbers = [n for n in layers if isinstance(n, int) and not isinstance(n, bool)]
    return len(numbers) == len(layers) == 2 and 0 <= numbers[0] <= numbers[1]


def select(rankings: Mapping[Modality, Ranking], selection: Selection) -> NeuronSet:
    """The chosen neurons; equal ranks in order of layer and unit.

    Raises:
        EditError: a ranking is missing, or there are fewer neurons than asked for.
    """
    missing = [modality for modality in selection.modalities if modality not in rankings]
    if missing:
        raise EditError(f"edit.select.kind={selection.kind} needs scores of the {' and the '.join(missing)}")
    shape = _shape(next(iter(rankings.values())))
    if selection.by == "layer":
        return layer_neurons(shape, selection.layers)
    allowed = _allowed(shape, selection.layers)
    ranks = {m: _ranks(_values(rankings[m], selection.by), allowed) for m in selection.modalities}
    order = _order(ranks, selection)
    if len(order) < selection.k:
        raise EditError(
            f"edit.k={selection.k} neurons are asked for, but only {len(order)} can be had with "
            f"edit.select.kind={selection.kind} and edit.select.layers={selection.layers}"
        )
    chosen = _neurons(order[: selection.k], shape)
    return _random_like(chosen, shape, seed=selection.seed) if selection.by == "random" else chosen


def layer_neurons(shape: tuple[int, int], layers: tuple[int, int] | None) -> NeuronSet:
    """Every neuron of the layers allowed.

    Args:
        shape: (L, d).
        layers: First and last one; None for all.

    Raises:
        EditError: the model has no such layer.
    """
    return _neurons(_allowed(shape, layers).flatten().nonzero().squeeze(1), shape)


def shape_of(mllm: MLLM) -> tuple[int, int]:
    """Layers of a model, and neurons of each, (L, d)."""
    return len(mllm.ffn_sites), mllm.ffn_sites[0].width


def refuse_impossible(shape: tuple[int, int], selection: Selection) -> None:
    """Raise EditError for a selection that a model of this shape (L, d) cannot have, whatever its ranking."""
    room = int(_allowed(shape, selection.layers).sum())
    if selection.by != "layer" and selection.k > room:
        where = "" if selection.layers is None else f" in edit.select.layers={list(selection.layers)}"
        raise EditError(f"edit.k={selection.k}, but the model has {room} neurons{where}: lower edit.k")


def _shape(ranking: Ranking) -> tuple[int, int]:
    layers, units = ranking.scores.shape
    return layers, units


def _values(ranking: Ranking, by: By) -> Tensor:
    return ranking.activations if by == "active" else ranking.scores


def _allowed(shape: tuple[int, int], layers: tuple[int, int] | None) -> Tensor:
    allowed = torch.ones(shape, dtype=torch.bool)
    if layers is not None:
        if layers[1] >= shape[0]:
            raise EditError(f"edit.select.layers={list(layers)}: the model's layers are 0 to {shape[0] - 1}")
        allowed[: layers[0]] = False
        allowed[layers[1] + 1 :] = False
    return allowed


def _ranks(values: Tensor, allowed: Tensor) -> Tensor:
    """Place of each neuron from 0 in descending order, (L * d,); those not allowed come last."""
    flat = torch.where(allowed, values.float().cpu(), float("-inf")).flatten()
    order = flat.sort(descending=True, stable=True).indices
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    ranks[~allowed.flatten()] = 2 * len(order)
    return ranks


def _order(ranks: Mapping[Modality, Tensor], selection: Selection) -> Tensor:
    """Neurons by flat index, best first, those that cannot be taken left out."""
    kind, size = selection.kind, len(next(iter(ranks.values())))
    if kind in ("text", "image"):
        rank = ranks[kind]
    elif kind == "both":
        rank = torch.minimum(ranks["text"], ranks["image"])
    elif kind == "intersection":
        rank = torch.maximum(ranks["text"], ranks["image"])
    else:
        mine, other = kind.split("_without_")
        rank = ranks[mine].clone()  # type: ignore[index]
        rank[ranks[other] < selection.k] = 2 * size  # type: ignore[index]
    order = rank.sort(stable=True).indices
    return order[rank[order] < 2 * size]


def _random_like(chosen: NeuronSet, shape: tuple[int, int], *, seed: int) -> NeuronSet:
    """As many others of each layer; of the same ones where a layer has not enough others."""
    rng = np.random.default_rng(seed)
    found: list[Neuron] = []
    for layer, units in chosen.by_layer().items():
        others = np.setdiff1d(np.arange(shape[1]), units)
        pool = others if len(others) >= len(units) else np.arange(shape[1])
        found += [Neuron(layer, int(u)) for u in rng.choice(pool, size=len(units), replace=False)]
    return NeuronSet.of(found)


def _neurons(flat: Tensor, shape: tuple[int, int]) -> NeuronSet:
    return NeuronSet.of(Neuron(index // shape[1], index % shape[1]) for index in flat.tolist())
