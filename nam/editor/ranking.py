"""What neurons are ranked by: the scores of a finished attribution run, or of answers asked for now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nam.editor.delta import EditError
from nam.editor.select import Ranking
from nam.types import Modality, Scores

if TYPE_CHECKING:
    from nam.attribution import Work
    from nam.mllm.base import MLLM
    from nam.store import Run

#: Mean scores and activations, by concept and modality.
Means = Mapping[tuple[str, str], tuple[Tensor, Tensor]]

#: The two on disk.
_TENSORS = ("scores", "activations")


def finished_run(folder: str | Path, method: str, *, mllm: MLLM | None = None) -> Run:
    """A finished attribution run with scores of this method; of this model, where one is given.

    Raises:
        EditError: it is another kind of run, unfinished, of other methods, or of another model.
        StoreError: it is no run, or damaged.
    """
    from nam.mllm.fingerprint import fingerprint
    from nam.store import Run

    run = Run(folder)
    if not run.keys:
        raise EditError(f"edit.run={folder} holds no scores: it must be a finished run of attribute.py")
    if not run.finished:
        raise EditError(f"edit.run={folder} has not come to its end: python attribute.py resume={folder}")
    methods = sorted({name for _, _, name in run.keys})
    if method not in methods:
        raise EditError(
            f"edit.run={folder} has scores of {', '.join(methods)}, not of {method}: set edit.method"
        )
    made, found = run.manifest.get("model", {}), None if mllm is None else fingerprint(mllm)
    if mllm is not None and made.get("revision") != found:
        raise EditError(
            f"edit.run={folder} was made on {made.get('name')} with weights {made.get('revision')}, "
            f"{mllm.name} has weights {found}: attribute that model, or load the other one"
        )
    return run


def require_scores(run: Run, method: str, concept: str, modalities: Sequence[Modality]) -> None:
    """Raise EditError unless a run has a method's scores of a concept in these modalities."""
    for modality in modalities:
        known = sorted({name for name, kind, by in run.keys if (kind, by) == (modality, method)})
        if concept not in known:
            listed = ", ".join(known) if known else "nothing"
            raise EditError(
                f"edit.run={run.folder} has no scores of {concept!r} in modality {modality} by {method}, "
                f"but of {listed}"
            )


def means_of_run(folder: str | Path, method: str) -> Means:
    """The means of a finished attribution run.

    Raises:
        EditError, StoreError: as `finished_run`.
    """
    run = finished_run(folder, method)
    found = {}
    for concept, modality, name in run.keys:
        if name == method:
            means = run.scores(concept, modality, name)
            found[concept, modality] = (torch.from_numpy(means.scores), torch.from_numpy(means.activations))
    return found


def means_of_works(works: Iterable[Work], method: str) -> Means:
    """The means of what `nam.attribution.Attributor` found."""
    groups: dict[tuple[str, str], list[Scores]] = {}
    for work in works:
        for scores in work.scores:
            if scores.method == method:
                groups.setdefault((scores.concept.name, scores.modality), []).append(scores)
    return {
        key: (
            torch.stack([s.scores for s in mine]).mean(0),
            torch.stack([s.activations for s in mine]).mean(0),
        )
        for key, mine in groups.items()
    }


def write_means(means: Means, path: Path) -> None:
    """Write means into a safetensors file; it takes its place only when it is whole. Raises StoreError."""
    from safetensors.torch import save_file

    from nam.store.files import atomic

    tensors = {
        "/".join((concept, modality, name)): tensor.contiguous()
        for (concept, modality), pair in means.items()
        for name, tensor in zip(_TENSORS, pair, strict=True)
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary)


def read_means(path: Path) -> Means:
    """What `write_means` has written."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    keys = {tuple(name.rsplit("/", 2)[:2]) for name in tensors}
    return {
        (concept, modality): (
            tensors[f"{concept}/{modality}/{_TENSORS[0]}"],
            tensors[f"{concept}/{modality}/{_TENSORS[1]}"],
        )
        for concept, modality in sorted(keys)
    }


def rankings_of(means: Means, concept: str, *, contrast: bool) -> dict[Modality, Ranking]:
    """What a concept's neurons are ranked by, in each modality that has scores.

    Args:
        means: Of the concept, and of others.
        concept: Which one.
        contrast: Subtract the mean over the other concepts from scores and activations: neurons that matter
            for everything alike are no place for an edit that is to leave everything else alone.

    Raises:
        EditError: the concept has no scores.
    """
    found: dict[Modality, Ranking] = {}
    modalities: tuple[Modality, ...] = ("text", "image")
    for modality in modalities:
        if (concept, modality) not in means:
            continue
        scores, activations = means[concept, modality]
        others = [mean for (name, kind), mean in means.items() if kind == modality and name != concept]
        if contrast and others:
            scores = scores - torch.stack([mean for mean, _ in others]).mean(0)
            activations = activations - torch.stack([mean for _, mean in others]).mean(0)
        found[modality] = Ranking(scores, activations)
    if not found:
        known = sorted({name for name, _ in means})
        listed = f"there are some of {', '.join(known)}" if known else "the model neither says nor draws it"
        raise EditError(f"there are no scores of {concept!r} to select neurons by: {listed}")
    return found
