"""What every row shares: the model, its judges, answers before the edit, attribution scores, cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.editing.plan import digest
from nam.attribution import Attributor, Work
from nam.data.concepts import concept_of
from nam.data.edits import Asked, ScenePairs
from nam.editing import attribute_things
from nam.editor.base import Goal
from nam.editor.cases import Cases, Pair, build_cases, streams_of
from nam.editor.delta import Delta
from nam.editor.ranking import Means, means_of_works, rankings_of
from nam.editor.select import Selection, select
from nam.errors import InputError
from nam.evaluate.clipscore import ClipScore, load_clipscore
from nam.evaluate.edit_reading import drift, resemblance
from nam.evaluate.editing import EditPrompts, Seen, ask, observe
from nam.evaluate.judge import Judge, load_judge
from nam.mllm.base import MLLM
from nam.mllm.fingerprint import fingerprint
from nam.mllm.load import load
from nam.options import option
from nam.store.files import atomic
from nam.types import NeuronSet
from nam.world.scene import NOUNS


@dataclass(frozen=True)
class Before:
    """The held-out prompts about one thing and all others, and the unedited model's answers."""

    seen: list[Seen]
    streams: list[Tensor]

    @property
    def asked(self) -> list[Asked]:
        """The prompts."""
        return [one.asked for one in self.seen]

    def about(self, nouns: Iterable[str]) -> Before:
        """The prompts about these things alone."""
        kept = [i for i, one in enumerate(self.seen) if one.asked.noun in set(nouns)]
        return Before([self.seen[i] for i in kept], [self.streams[i] for i in kept])


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A model under measurement; what rows share is computed when a row first needs it.

    Attributes:
        folder: Weights folder.
        cache: Where attribution scores and rows are kept.
        methods: Attribution methods, the first one the default.
        concepts: Things that are attributed; a row's source must be among them. Empty: all.
        samples: Requests of each thing that are attributed.
        prompts: What edits are made on; its seed is every edit's.
        held_out: What edits are judged by.
        steps: Most steps of an edit; None for the editor's own.
        grown: Held-out requests of a growing edit, and pictures of each.
    """

    folder: Path
    cache: Path
    methods: tuple[str, ...]
    concepts: tuple[str, ...] = ()
    samples: int = 2
    prompts: ScenePairs = field(default_factory=ScenePairs)
    held_out: EditPrompts = field(
        default_factory=lambda: EditPrompts(draw=10, seeds=2, riddles=4, captions=8, others=1)
    )
    steps: int | None = None
    grown: tuple[int, int] = (5, 3)
    _cases: dict[tuple[str, str, str], Cases] = field(default_factory=dict)
    _before: dict[str, Before] = field(default_factory=dict)

    @cached_property
    def mllm(self) -> MLLM:
        """The model."""
        return load(self.folder)

    @cached_property
    def judge(self) -> Judge:
        """The classifier of the folder."""
        return load_judge(self.folder)

    @cached_property
    def clip(self) -> ClipScore:
        """The folder's own CLIP."""
        return load_clipscore(self.folder)

    @cached_property
    def attributor(self) -> Attributor:
        """What scores neurons, by every method."""
        return Attributor(
            mllm=self.mllm,
            segmenter=option("segmenter", "scenes"),
            relevance=option("relevance", "gradient"),
            methods={name: option("reduction", name) for name in self.methods},
        )

    @cached_property
    def scoring(self) -> dict[str, Any]:
        """What scores depend on beside their method."""
        return {
            "weights": fingerprint(self.mllm),
            "segmenter": repr(self.attributor.segmenter),
            "relevance": repr(self.attributor.relevance),
            "samples": self.samples,
            "concepts": self.concepts,
        }

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What a row depends on beside its job, its method and its editor."""
        return {
            **self.scoring,
            "prompts": vars(self.prompts),
            "held_out": vars(self.held_out),
            "steps": self.steps,
            "grown": self.grown,
        }

    @cached_property
    def means(self) -> dict[str, Means]:
        """Mean scores of every method, from one pass over the same answers; kept on disk."""
        path = self.cache / f"attribution-{digest(self.scoring, repr(self.attributor.methods))}.safetensors"
        if path.is_file():
            kept = _read_means(path)
            return {name: kept.get(name, {}) for name in self.methods}
        works: list[Work] = attribute_things(self.attributor, concepts=self.concepts, samples=self.samples)
        means = {name: means_of_works(works, name) for name in self.methods}
        _write_means(means, path)
        return means

    def prepare(self, sources: Iterable[str]) -> None:
        """Have everything that rows about these sources share."""
        if not self.means:
            raise InputError("no attribution method is given")
        for source in sources:
            self.before(source)

    def neurons(self, source: str, selection: Selection, method: str) -> NeuronSet:
        """The neurons of a selection."""
        return select(rankings_of(self.means[method], source, contrast=True), selection)

    def cases(self, goal: Goal) -> Cases:
        """What an edit of the unedited model works on."""
        key = (goal.source.name, goal.target.name, goal.modality)
        if key not in self._cases:
            asked = zip(self.prompts.of(key[0]), self.prompts.of(key[1], like=key[0]), strict=True)
            self._cases[key] = build_cases(
                self.mllm,
                goal,
                [Pair(one.sample, other.sample) for one, other in asked],
                [one.sample for one in self.prompts.kept(key[0])],
            )
        return self._cases[key]

    def before(self, source: str) -> Before:
        """The held-out prompts of a source, asked of the unedited model once."""
        if source not in self._before:
            asked = self.held_out.asked(self.prompts, source)
            known = {one.asked.sample.id: one for each in self._before.values() for one in each.seen}
            new = iter(self._ask([one for one in asked if one.sample.id not in known]))
            seen = [known[one.sample.id] if one.sample.id in known else next(new) for one in asked]
            streams = streams_of(self.mllm, [one.generation for one in seen])
            self._before[source] = Before(seen, streams)
        return self._before[source]

    def judged(
        self, deltas: Sequence[Delta], pairs: Sequence[tuple[str, str]]
    ) -> tuple[dict[str, list[float]], dict[str, float]]:
        """What the model with these deltas does to each source and to everything that is no source.

        Returns:
            By the names of `observe` and `resemblance` one value a prompt; and the means of `drift` over
            the sources.
        """
        observed: dict[str, list[float]] = {}
        moved: dict[str, list[float]] = {}
        sources = [source for source, _ in pairs]
        rest = [noun for noun in NOUNS if noun not in sources]
        # The other things are asked about once, with the first source.
        before = [
            self.before(source).about([source, *(rest if number == 0 else [])])
            for number, source in enumerate(sources)
        ]
        with ExitStack() as stack:
            for delta in deltas:
                stack.enter_context(delta.applied(self.mllm))
            for (source, target), old in zip(pairs, before, strict=True):
                after = self._ask(old.asked)
                found = observe(old.seen, after, source=source, target=target)
                found |= resemblance(self.clip, old.seen, after, source=source, target=target)
                for name, values in found.items():
                    observed.setdefault(name, []).extend(round(value, 4) for value in values)
                read = drift(self.mllm, old.seen, old.streams, source=source, target=target)
                for name, value in read.items():
                    moved.setdefault(name, []).extend([] if value is None else [value])
        return observed, {name: sum(values) / len(values) for name, values in moved.items() if values}

    def _ask(self, asked: Sequence[Asked]) -> list[Seen]:
        return ask(self.mllm, asked, self.judge, batch=self.held_out.batch)


def goal_of(source: str, target: str, modality: Any) -> Goal:
    """The goal, with the forms of both words."""
    return Goal(concept_of(source), concept_of(target), modality)


def _write_means(means: dict[str, Means], path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "/".join((method, *key, name)): tensor.contiguous()
        for method, found in means.items()
        for key, pair in found.items()
        for name, tensor in zip(("scores", "activations"), pair, strict=True)
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary)


def _read_means(path: Path) -> dict[str, Means]:
    from safetensors.torch import load_file

    tensors = load_file(path)
    found: dict[str, dict[tuple[str, str], tuple[Tensor, Tensor]]] = {}
    for name, scores in tensors.items():
        method, concept, modality, what = name.split("/")
        if what == "scores":
            activations = tensors[f"{method}/{concept}/{modality}/activations"]
            found.setdefault(method, {})[concept, modality] = (scores, activations)
    return dict(found)
