"""One row: choose neurons, edit, judge; kept on disk as soon as it is measured."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.editing.growth import grow
from benchmarks.editing.lab import Lab, goal_of
from benchmarks.editing.plan import LAYER, Job
from benchmarks.quality.report import commit
from nam.editing import delta_of, fit, module_of
from nam.editor.base import Case, Editor, Problem, Trained
from nam.editor.cases import Cases, streams_of
from nam.editor.delta import Delta
from nam.editor.finetune import Finetune
from nam.editor.select import Selection
from nam.errors import NamError
from nam.options import option
from nam.store.files import write_json
from nam.types import NeuronSet
from nam.world.language import parse

#: Steps of a joint edit, at most, in those of one edit; a batch grows likewise.
_MORE = 3


def row_file(lab: Lab, job: Job) -> Path:
    """Where the row of a job is kept: it is used again where all that it depends on is the same."""
    used = {"method": repr(lab.attributor.methods[job.method]), "editor": repr(_editor(lab, job))}
    return lab.cache / job.file({**lab.settings, **used})


def row_of(lab: Lab, job: Job) -> dict[str, Any]:
    """The row of a job, from the disk where it was measured before.

    Returns:
        The job's fields, and: `observed` (by measure, one value a prompt), `drift` (means), `norm`,
        `neurons`, `steps`, `layers` (neurons by layer), `seconds` (of processor time); of growing
        edits what `grow` gives. `problem`, and none of these, where the edit cannot be made. Always
        `commit`.
    """
    path = row_file(lab, job)
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    # What rows share counts for none of them.
    lab.prepare([source for source, _ in job.pairs])
    began = time.process_time()
    try:
        measured = _grown(lab, job) if job.section == "growth" else _edited(lab, job)
    except NamError as error:
        measured = {"problem": str(error)}
    spent = round(time.process_time() - began, 1)
    row = {**asdict(job), **measured, "seconds": spent, "commit": commit()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, row)
    return row


def kept_rows(lab: Lab, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """The rows that were measured, in the order of the jobs."""
    paths = [row_file(lab, job) for job in jobs]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def _edited(lab: Lab, job: Job) -> dict[str, Any]:
    found = _joint(lab, job) if job.order == "joint" else _sequential(lab, job)
    deltas, steps = [delta for delta, _ in found], sum(steps for _, steps in found)
    observed, moved = lab.judged(deltas, job.pairs)
    neurons = {neuron for delta in deltas for neuron in delta.neurons}
    return {
        "observed": observed,
        "drift": moved,
        "norm": sum(delta.norm**2 for delta in deltas) ** 0.5,
        "neurons": len(neurons),
        "layers": {layer: len(units) for layer, units in NeuronSet.of(neurons).by_layer().items()},
        "steps": steps,
    }


def _joint(lab: Lab, job: Job) -> list[tuple[Delta, int]]:
    """One delta for all pairs: the cases of each, the chosen neurons of each."""
    goals = [goal_of(source, target, job.modality) for source, target in job.pairs]
    sources = frozenset(source for source, _ in job.pairs)
    cases = [lab.cases(goal) for goal in goals]
    edited = [case for one in cases for case in one.cases if case.edited]
    # Every goal keeps the same prompts, but those about its own source.
    kept = [case for case in cases[0].cases if not case.edited and not _about(case, sources)]
    neurons = NeuronSet.of(neuron for source in sources for neuron in _chosen(lab, job, source))
    editor = _editor(lab, job)
    more = min(len(goals), _MORE)
    if more > 1 and isinstance(editor, Trained):
        editor = replace(editor, steps=editor.steps * more, batch=editor.batch * more)
    problem = Problem(mllm=lab.mllm, goal=goals[0], cases=(*edited, *kept))
    return [_fitted(lab, problem, editor, neurons, cases[0])]


def _sequential(lab: Lab, job: Job) -> list[tuple[Delta, int]]:
    """One delta after the other, each made on the model as the earlier ones left it."""
    found: list[tuple[Delta, int]] = []
    base = [lab.cases(goal_of(source, target, job.modality)) for source, target in job.pairs]
    with ExitStack() as stack:
        for (source, target), cases in zip(job.pairs, base, strict=True):
            kept = [case for case in cases.cases if not case.edited]
            # What stays is what the model gives now, earlier edits included.
            now = streams_of(lab.mllm, [case.generation for case in kept])
            edited = [case for case in cases.cases if case.edited]
            staying = [replace(case, wanted=stream) for case, stream in zip(kept, now, strict=True)]
            goal = goal_of(source, target, job.modality)
            problem = Problem(mllm=lab.mllm, goal=goal, cases=(*edited, *staying))
            one = _fitted(lab, problem, _editor(lab, job), _chosen(lab, job, source), cases)
            stack.enter_context(one[0].applied(lab.mllm))
            found.append(one)
    return found


def _fitted(
    lab: Lab, problem: Problem, editor: Editor, neurons: NeuronSet, cases: Cases
) -> tuple[Delta, int]:
    module = module_of(problem, editor, neurons, seed=lab.prompts.seed)
    fit(module)
    return delta_of(module, cases), int(module.global_step)


def _grown(lab: Lab, job: Job) -> dict[str, Any]:
    (source, target), neurons = job.pairs[0], _chosen(lab, job, job.pairs[0][0])
    goal = goal_of(source, target, job.modality)
    problem = Problem(mllm=lab.mllm, goal=goal, cases=lab.cases(goal).cases)
    return grow(lab, problem, neurons)


def _chosen(lab: Lab, job: Job, source: str) -> NeuronSet:
    if job.editor == LAYER:
        # The layer that holds most of the chosen neurons, as a whole.
        chosen = lab.neurons(source, Selection(k=job.k, kind=job.kind), job.method).by_layer()
        layer = max(chosen, key=lambda each: len(chosen[each]))
        selection = Selection(k=job.k, by="layer", kind=job.kind, layers=(layer, layer))
    else:
        selection = Selection(k=job.k, by=job.by, kind=job.kind, seed=lab.prompts.seed)
    return lab.neurons(source, selection, job.method)


def _editor(lab: Lab, job: Job) -> Editor:
    editor: Editor = Finetune() if job.editor == LAYER else option("editor", job.editor)
    return editor if lab.steps is None else replace(editor, steps=min(lab.steps, editor.steps))


def _about(case: Case, nouns: frozenset[str]) -> bool:
    """Whether a picture of one of these things is the answer."""
    named = {noun for noun, _ in parse(case.generation.text).things}
    return bool(len(case.generation.spans.img)) and bool(named & nouns)
