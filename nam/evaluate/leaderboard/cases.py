"""One thing said or drawn at one prompt, with the scores of every method, with and without its region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nam.errors import ConfigError
from nam.evaluate.leaderboard.table import NO_REGION
from nam.evaluate.rankings import Ranking, ranking_of
from nam.reduction.base import Context, Method, contexts_of
from nam.relevance.base import RelevanceError, RelevanceMap, relevance_of
from nam.store.rows import rank_neurons
from nam.targets import image_target
from nam.types import Concept, Modality, Target

if TYPE_CHECKING:
    from nam.attribution import Attributor, Work
    from nam.data.items import Item, Source

#: The relevance of a picture's concept: of the segmenter's mask; of the whole picture, as without a
#: segmenter; or none, 1 in every dimension, as the paper's baselines (eq. 15).
Region = Literal["mask", "whole", "ones"]
REGIONS = ("mask", "whole", "ones")

#: Which prompts are reported on.
Split = Literal["held_out", "tuning", "all"]


@dataclass(frozen=True, eq=False)
class Case:
    """One target with every method's scores.

    Attributes:
        work: The item, the answer, the mask.
        modality: Of the target.
        context: The target as methods are given it, signed, with the segmenter's mask.
        scores: float32 (L, d) by method and region.
    """

    work: Work
    modality: Modality
    context: Context
    scores: Mapping[tuple[str, str], NDArray[np.float32]]

    @property
    def id(self) -> str:
        """Of the prompt."""
        return self.work.item.sample.id

    @property
    def concept(self) -> Concept:
        """What is looked for."""
        return self.work.concept

    @property
    def region(self) -> NDArray[np.bool_]:
        """Where it was drawn, bool (H, W)."""
        return cast("NDArray[np.bool_]", self.work.mask.pixels)  # type: ignore[union-attr]

    def own(self, method: str) -> NDArray[np.float32] | None:
        """A method's scores with the mask, or those of a method that has no region."""
        found = self.scores.get((method, "mask"))
        return self.scores.get((method, NO_REGION)) if found is None else found

    def ranking(self, method: str, count: int) -> Ranking:
        """The best neurons by `own`."""
        return best(cast("NDArray[np.float32]", self.own(method)), count)


def best(scores: NDArray[np.float32], count: int) -> Ranking:
    """The neurons with the highest of scores (L, d), best first."""
    values = torch.from_numpy(np.ascontiguousarray(scores))
    places = rank_neurons(values, count=min(count, values.numel()))
    return ranking_of([(int(layer), int(unit)) for layer, unit in places])


def split_items(source: Source, *, split: Split, tuning: float, seed: int) -> list[Item]:
    """The items of a split: of each concept, the share `tuning` of its prompts (rounded up) is for tuning.

    Which they are follows from the seed and the concept, and from nothing that a model does.

    Raises:
        ConfigError: a split without items, or a share that is none.
    """
    if not 0 <= tuning < 1 or split not in ("held_out", "tuning", "all"):
        raise ConfigError(
            "evaluate.split must be held_out, tuning or all, and evaluate.tuning a share from 0 to below 1; "
            f"got {split} and {tuning}"
        )
    items = [source[index] for index in range(len(source))]
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.sample.concept.name if item.sample.concept else "", []).append(item)
    chosen: set[int] = set()
    for name, mine in sorted(groups.items()):
        order = np.random.default_rng([seed, *name.encode()]).permutation(len(mine))
        count = int(np.ceil(tuning * len(mine)))
        chosen |= {mine[index].index for index in order[:count].tolist()}
    wanted = [item for item in items if split == "all" or (item.index in chosen) is (split == "tuning")]
    if not wanted:
        raise ConfigError(f"evaluate.split={split} has no prompts: ask for more of each concept")
    return wanted


def with_region(methods: Mapping[str, Method], *, region: bool = True) -> dict[str, Method]:
    """The methods that know regions, told to use theirs or not; those that do not are left as they are."""
    return {
        name: replace(method, region=region) if has_region(method) else method  # type: ignore[call-arg]
        for name, method in methods.items()
    }


def has_region(method: Method) -> bool:
    """Whether a method's scores of a picture depend on a region."""
    return hasattr(method, "region")


def cases_of(
    attributor: Attributor, items: Sequence[Item], *, regions: Sequence[str] = REGIONS
) -> tuple[list[Case], list[str]]:
    """A case for each item and modality that can be attributed, and why others cannot.

    Args:
        attributor: Its methods use their regions (`with_region`).
        items: What is asked, together.
        regions: Which of `REGIONS` pictures are scored with; "mask" always.

    Raises:
        ConfigError: the model's pictures are made of tokens, which its measures do not know.
    """
    if attributor.mllm.draws_tokens:
        raise ConfigError(
            f"evaluate=leaderboard cannot judge the pictures of {attributor.mllm.name}, which are made of "
            "tokens; for its words set mllm=vlm and mllm.id"
        )
    works = attributor(items)
    errors = [f"{work.item.sample.id}: {why}" for work in works for why in work.errors.values()]
    cases = []
    for work in works:
        for modality in work.item.modalities:
            if not work.wants(modality):
                continue
            context = _context(attributor, work, target_of(work, modality, signed=True))
            scores = dict(_masked(attributor, work, modality))
            if modality == "image":
                scores |= dict(_elsewhere(attributor, work, regions))
            cases.append(Case(work, modality, context, scores))
    return cases, errors


def _masked(
    attributor: Attributor, work: Work, modality: Modality
) -> Iterator[tuple[tuple[str, str], NDArray[np.float32]]]:
    for found in work.scores:
        if found.modality == modality:
            regional = modality == "image" and has_region(attributor.methods[found.method])
            yield (found.method, "mask" if regional else NO_REGION), found.scores.numpy()


def _elsewhere(
    attributor: Attributor, work: Work, regions: Sequence[str]
) -> Iterator[tuple[tuple[str, str], NDArray[np.float32]]]:
    """Scores with other regions than the mask."""
    regional = {name: method for name, method in attributor.methods.items() if has_region(method)}
    if "ones" in regions:
        contexts = by_sign(attributor, work, None)
        for name, method in with_region(regional, region=False).items():
            yield (name, "ones"), _scored(method, contexts[method.needs.signed])
    if "whole" in regions:
        everywhere = np.ones_like(work.mask.pixels)  # type: ignore[union-attr]
        yield from rescored(attributor, work, everywhere, name="whole").items()


def rescored(
    attributor: Attributor, work: Work, region: NDArray[np.bool_], *, name: str
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """The scores of the methods that know regions for another region of a picture; empty where it has no
    relevance."""
    provider = replace(attributor.relevance, signed=True, aggregate="none")
    (found,) = provider.batch(attributor.mllm, [work.answer], [torch.from_numpy(region)])
    if isinstance(found, RelevanceError):
        return {}
    contexts = by_sign(attributor, work, found.values)
    return {
        (method_name, name): _scored(method, contexts[method.needs.signed])
        for method_name, method in attributor.methods.items()
        if has_region(method)
    }


def by_sign(attributor: Attributor, work: Work, gradient: Tensor | None) -> dict[bool, Context]:
    """Contexts of a picture, signed and unsigned; of the mask's own targets without another gradient."""
    found = {}
    for sign in (True, False):
        signed = attributor.relevance.signed or sign
        if gradient is None:
            target = target_of(work, "image", signed=signed)
        else:
            how = attributor.relevance.aggregate
            values = relevance_of(cast(Tensor, work.answer.hidden), gradient, signed=signed, aggregate=how)
            target = image_target(work.answer, RelevanceMap(values, signed, 0.0))
        found[sign] = _context(attributor, work, target)
    return found


def target_of(work: Work, modality: Modality, *, signed: bool) -> Target:
    """The target of that sign, or the one that there is."""
    found = work.targets.get((modality, signed))
    return work.targets[modality, not signed] if found is None else found


def _context(attributor: Attributor, work: Work, target: Target) -> Context:
    recorded = None if work.recorded is None else [work.recorded]
    return contexts_of(attributor.mllm, [work.answer], [target], recorded=recorded)[0]


def _scored(method: Method, context: Context) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = method.score(context).cpu().numpy()
    return scores
