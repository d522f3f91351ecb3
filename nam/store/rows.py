"""From the result of one sample to the rows of the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from nam.store.files import StoreError, clean
from nam.store.schema import NEURON_SHARDS, SAMPLES
from nam.types import Neuron

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from nam.types import Concept, Modality, Scores, Sound

#: The modalities, in the order of the tables.
MODALITIES: tuple[Modality, ...] = ("text", "image", "audio", "video")

#: Words of each neuron, most likely first.
WordLookup = Callable[[Sequence[Neuron]], list[tuple[str, ...]]]


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleResult:
    """All that a run found out about one sample.

    Attributes:
        index: Place in the data, from 0; no two samples share one.
        id: The sample's own name.
        concept: What was looked for.
        prompt: What was asked.
        text: What was answered.
        seed: Seed of the picture's noise.
        input: Picture that was asked about, RGB.
        picture: Picture that was drawn, RGB; of a sound its spectrogram, of a video a sheet of its frames.
        sound: Sound that was drawn.
        mask: Region of the concept in the drawn picture, bool (H, W).
        mask_score: How sure the segmenter is, 0 to 1.
        relevance: Norm of the relevance at each [IMG] position.
        scores: At most one per modality and method.
        asked: The modalities that were asked for.
        errors: Why a modality has no scores, by modality; "" for what concerns the whole sample.
    """

    index: int
    id: str
    concept: Concept | None = None
    prompt: str = ""
    text: str = ""
    seed: int = 0
    input: Image | None = None
    picture: Image | None = None
    sound: Sound | None = None
    mask: NDArray[np.bool_] | None = None
    mask_score: float | None = None
    relevance: tuple[float, ...] | None = None
    scores: tuple[Scores, ...] = ()
    asked: tuple[Modality, ...] = ("text", "image")
    errors: tuple[tuple[Modality | Literal[""], str], ...] = ()


def rank_neurons(scores: Tensor, *, count: int, activations: Tensor | None = None) -> NDArray[np.int64]:
    """The highest-scoring neurons as rows (layer, unit), best first.

    Of equal scores the larger activation comes first, then the lower layer and unit.

    Args:
        scores: (L, d).
        count: Most neurons that are returned.
        activations: (L, d); None: equal scores in order of layer and unit.
    """
    flat = scores.detach().reshape(-1).cpu()
    order = torch.arange(len(flat))
    if 0 < count < len(flat):
        # The rest need no sorting; NaN, which sorts first, is below nothing.
        order = order[~(flat < flat.topk(count).values[-1])]
    if activations is not None:
        active = activations.detach().reshape(-1).cpu()[order]
        order = order[active.sort(descending=True, stable=True).indices]
    best = order[flat[order].sort(descending=True, stable=True).indices][:count].numpy()
    return np.stack(np.unravel_index(best, tuple(scores.shape)), axis=1)


def finite_scores(result: SampleResult) -> tuple[tuple[Scores, ...], dict[str, str]]:
    """The scores that can be kept, and the reasons for every modality that has none.

    Scores that are not finite become an error of their modality, which then keeps none.
    """
    errors: dict[str, str] = dict(result.errors)
    for one in result.scores:
        if not (one.scores.isfinite().all() and one.activations.isfinite().all()):
            errors[one.modality] = f"{one.method}: a score or activation is NaN or infinite"
    kept = [one for one in result.scores if one.modality not in errors and "" not in errors]
    return tuple(sorted(kept, key=lambda one: (MODALITIES.index(one.modality), one.method))), errors


def sample_row(
    result: SampleResult, *, errors: dict[str, str], paths: dict[str, str | None], neurons: int
) -> dict[str, Any]:
    """The sample's row of samples.parquet.

    Args:
        errors: As `finite_scores` gives them.
        paths: Of `input`, `picture`, `mask` and `sound`, relative to the run folder.
        neurons: Number of its rows in neurons.parquet.
    """
    row: dict[str, Any] = {
        "index": result.index,
        "id": clean(result.id),
        "prompt": clean(result.prompt),
        "text": clean(result.text),
        "concept": clean(result.concept.name if result.concept else ""),
        "forms": [clean(word) for word in result.concept.words] if result.concept else [],
        "seed": result.seed,
        "mask_score": result.mask_score,
        "relevance": None if result.relevance is None else list(result.relevance),
        "neurons": neurons,
        **paths,
    }
    for modality in MODALITIES:
        reason = errors.get(modality) or errors.get("")
        asked = modality in result.asked
        row[f"{modality}_status"] = ("error" if reason else "ok") if asked else None
        row[f"{modality}_error"] = clean(reason) if asked and reason else None
    named = [f"{modality}: {reason}" if modality else reason for modality, reason in errors.items()]
    row["status"] = "error" if errors else "ok"
    row["error"] = clean("; ".join(named)) or None
    return row


def samples_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of samples.parquet, by index.

    Raises:
        StoreError: a value does not fit its column.
    """
    try:
        return pa.Table.from_pylist(sorted(rows, key=lambda row: row["index"]), schema=SAMPLES)
    except (pa.ArrowException, OverflowError) as error:
        raise StoreError(f"a sample does not fit the table: {error}") from error


def neuron_rows(index: int, sample: str, one: Scores, *, top: int, words: WordLookup | None) -> pa.Table:
    """The rows of one sample, concept, modality and method: its top neurons."""
    where = rank_neurons(one.scores, count=top, activations=one.activations)
    layers, units = where[:, 0], where[:, 1]
    neurons = [Neuron(int(layer), int(unit)) for layer, unit in where] if words else []
    written = [clean(", ".join(found)) for found in words(neurons)] if words else [""] * len(where)
    same = {"sample": sample, "concept": one.concept.name, "modality": one.modality, "method": one.method}
    columns: dict[str, Any] = {
        "index": np.full(len(where), index),
        **{name: [clean(value)] * len(where) for name, value in same.items()},
        "rank": np.arange(1, len(where) + 1, dtype=np.int32),
        "layer": layers.astype(np.int32),
        "unit": units.astype(np.int32),
        "score": one.scores.detach().float().cpu().numpy()[layers, units],
        "activation": one.activations.detach().float().cpu().numpy()[layers, units],
        "words": written,
    }
    return pa.table(columns, schema=NEURON_SHARDS)
