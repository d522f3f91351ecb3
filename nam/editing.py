"""`nam.edit`: turn one concept into another in Python; and what the command shares with it."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L

from nam.attribution import Attributor, Work
from nam.checks import expect, whole
from nam.data.concepts import concept_of
from nam.data.edits import ScenePairs
from nam.data.prompts import ScenePrompts
from nam.editor.base import EditModality, Editor, Goal, Problem
from nam.editor.cases import Cases, Pair
from nam.editor.delta import Delta, EditError, difference, require_neurons
from nam.editor.ranking import means_of_works, rankings_of
from nam.editor.select import Selection, refuse_impossible, select, shape_of
from nam.editor.token_cases import cases_of
from nam.mllm.base import MLLM
from nam.modules.editing import EditingModule
from nam.options import option, part
from nam.reduction.base import Method
from nam.types import NeuronSet, Sample

#: Prompts that are attributed together, and those of each thing by which neurons are selected.
ATTRIBUTED, SAMPLES = 8, 2


def edit(
    mllm: MLLM,
    *,
    source: str,
    target: str,
    modality: EditModality = "image",
    k: int = 32,
    editor: str | Editor = "rewrite",
    reduction: str | Method = "nam",
    neurons: NeuronSet | None = None,
    pairs: Sequence[Pair] | None = None,
    others: Sequence[Sample] | None = None,
    seed: int = 0,
) -> Delta:
    """Change the value vectors of a few neurons so that one concept becomes another. The model stays as it
    is: `with delta.applied(mllm)` applies the result, `delta.save(path)` keeps it.

    Args:
        mllm: The model.
        source: What is to become something else, such as "cat".
        target: What it is to become, such as "dog".
        modality: In pictures, in words, or in both.
        k: Neurons that are changed.
        editor: An editor, or its name under `configs/editor`.
        reduction: The method by which neurons are selected, or its name under `configs/reduction`.
        neurons: The neurons themselves, instead of selecting them.
        pairs: Requests for the source and the same for the target; None for some about the things of the
            scenes. They need not be of the scenes where `neurons` are given. Of a model whose pictures are
            made of tokens, those without a picture are requests to draw.
        others: What must stay as it is; None likewise.
        seed: Of prompts and training steps.

    Raises:
        EditError: the model neither says nor draws the source or the target, k is too large, or nothing that
            the editor finds changes anything.
        ConfigError, InputError, ModelError: an argument or the model is of the wrong kind.
    """
    expect(MLLM, mllm, "mllm: expected a model, as nam.load gives it")
    for word in (source, target):
        expect(str, word, "source and target: expected words such as 'cat'")
    chosen_editor: Editor = part(Editor, "editor", editor)
    method: Method = part(Method, "reduction", reduction)
    goal = Goal(concept_of(source), concept_of(target), modality)
    selection = Selection(k=k, kind=modality)
    prompts = ScenePairs(seed=whole("seed", seed, least=0))
    if neurons is not None:
        require_neurons(mllm, neurons)
    for pair in pairs or ():
        expect(Pair, pair, "pairs: expected nam.editor.cases.Pair, the request for both words")
    for other in others or ():
        expect(Sample, other, "others: expected nam.types.Sample, what is asked")
    if pairs is None:
        asked = zip(prompts.of(source), prompts.of(target, like=source), strict=True)
        pairs = [Pair(one.sample, other.sample) for one, other in asked]
    if others is None:
        others = [one.sample for one in prompts.kept(source)]
    selected: dict[str, Any] = {}
    if neurons is None and not chosen_editor.selects:
        neurons = NeuronSet(())
    if neurons is None:
        refuse_impossible(shape_of(mllm), selection)
        attributor = Attributor(
            mllm=mllm,
            segmenter=option("segmenter", "scenes"),
            relevance=option("relevance", "gradient"),
            methods={method.name: method},
        )
        works = attribute_things(attributor, seed=seed)
        _require_scores([work for work in works if work.concept.name == source], source, selection)
        means = means_of_works(works, method.name)
        neurons = select(rankings_of(means, source, contrast=True), selection)
        selected = selection.facts(method.name, contrast=True, samples=SAMPLES)
    found = cases_of(mllm, goal, pairs, others)
    problem = Problem(mllm=mllm, goal=goal, cases=found.cases)
    module = module_of(problem, chosen_editor, neurons, seed=seed)
    fit(module)
    return delta_of(module, found, pairs=pairs, manifest=selected)


def _require_scores(works: Sequence[Work], source: str, selection: Selection) -> None:
    """Refuse to select neurons by requests for the source of which none could be attributed."""
    for modality in selection.modalities:
        if not any(one.modality == modality for work in works for one in work.scores):
            why = next(
                (reason for work in works for reason in work.errors.values()), "it is no thing of them"
            )
            raise EditError(
                f"neurons cannot be selected: none of {len(works)} requests for {source} in the drawn scenes "
                f"could be attributed ({modality}: {why}); give them as neurons=NeuronSet.of(...)"
            )


def attribute_things(
    attributor: Attributor, *, concepts: Sequence[str] = (), samples: int = SAMPLES, seed: int = 0
) -> list[Work]:
    """Attribute a few requests to draw things of the scenes; all things where none are named."""
    items = ScenePrompts(
        concepts=tuple(concepts),
        draw=samples,
        draw_two=0,
        draw_riddle=0,
        riddle=0,
        caption=0,
        split="train",
        seed=seed,
    )
    works: list[Work] = []
    for start in range(0, len(items), ATTRIBUTED):
        works += attributor([items[i] for i in range(start, min(start + ATTRIBUTED, len(items)))])
    return works


def module_of(problem: Problem, editor: Editor, chosen: NeuronSet, *, seed: int) -> EditingModule:
    """What a Trainer fits: the editor on the neurons that it changes."""
    neurons = editor.neurons(problem, chosen)
    return EditingModule(problem=problem, editor=editor, neurons=neurons, seed=seed)


def fit(module: EditingModule) -> None:
    """Run the editor to its end, without a progress bar, a logger or files."""
    with _quiet(), _interruptible():
        device = module.problem.mllm.device
        trainer = L.Trainer(
            accelerator="cpu" if device.type == "cpu" else "auto",
            devices=1 if device.index is None else [device.index],
            max_steps=module.editor.steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module)


def delta_of(
    module: EditingModule,
    found: Cases,
    *,
    pairs: Sequence[Pair] = (),
    manifest: Mapping[str, Any] | None = None,
) -> Delta:
    """The delta that a fitted module stands for, with what made it.

    Args:
        module: Fitted.
        found: What it worked on.
        pairs: The requests that this is made of.
        manifest: What else is to be said, such as how the neurons were selected.

    Raises:
        EditError: the editor found nothing that changes the value vectors.
    """
    goal, editor = module.problem.goal, module.editor
    facts = {
        "source": goal.source.name,
        "target": goal.target.name,
        "modality": goal.modality,
        "editor": editor.name,
        "settings": {key: value for key, value in vars(editor).items() if value is not None},
        "steps": int(module.global_step),
        "reached": module.reached,
        "pairs": found.used,
        "skipped": found.skipped,
        "prompts": [pair.source.prompt for pair in pairs],
        "seed": module.seed,
        **(manifest or {}),
    }
    delta = difference(module.problem.mllm, module.neurons, module.found, manifest=facts)
    if not delta.norm:
        selected = "take more of them (edit.k), or others, or " if editor.selects else ""
        raise EditError(
            f"editor={editor.name} found no change of these {len(delta.neurons)} neurons that comes closer "
            f"to what is wanted: {selected}{editor.larger}"
        )
    return delta


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as everywhere in Python: a Trainer ends the process instead, and lets no second Ctrl-C pass."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's remarks about a loop without validation, workers and logger."""
    remarks = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = remarks.level
    remarks.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        remarks.setLevel(level)
