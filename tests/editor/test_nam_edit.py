"""`nam.edit`: what it gives, what it refuses, and how it is interrupted."""

from __future__ import annotations

import signal
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import nam
from nam.data.edits import ScenePairs
from nam.editor import Delta, EditError, read_delta
from nam.editor.base import Editor
from nam.editor.cases import Pair
from nam.editor.finetune import Finetune
from nam.editor.rewrite import Rewrite
from nam.editor.rome import Rome
from nam.errors import ConfigError, InputError, NamError
from nam.mllm.gill import GILL
from nam.modules.editing import EditingModule
from nam.options import option
from nam.types import Concept, Neuron, NeuronSet, Scores
from tests.editor.problems import NEURONS
from tests.editor.test_delta import assert_same_bits, weights
from tests.families import build

PROMPTS = ScenePairs(draw=2, caption=0, others=1, others_caption=0, others_riddle=0)


def given(**more: Any) -> dict[str, Any]:
    """Arguments of an edit that is done in a second."""
    both = zip(PROMPTS.of("cat"), PROMPTS.of("dog", like="cat"), strict=True)
    pairs = [Pair(one.sample, other.sample) for one, other in both]
    others = [one.sample for one in PROMPTS.kept("cat")[:2]]
    few = {"source": "cat", "target": "dog", "neurons": NEURONS, "pairs": pairs, "others": others}
    return {**few, "editor": Rewrite(steps=2), **more}


@pytest.mark.parametrize("editor", ["rewrite", "scale", "rome", Finetune(steps=3, batch=2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_editor_in_every_precision(editor: Any, dtype: torch.dtype, gill_folder: Path) -> None:
    mllm = build("opt", gill_folder, dtype=dtype)
    before = weights(mllm)
    delta = nam.edit(mllm, **given(editor=editor))
    assert_same_bits(mllm, before)
    assert delta.edited.dtype == dtype
    assert (delta.manifest["source"], delta.manifest["target"], delta.manifest["pairs"]) == ("cat", "dog", 2)
    with delta.applied(mllm):
        where = delta.neurons.neurons[0]
        assert torch.equal(mllm.ffn_sites[where.layer].value_vectors[:, where.unit], delta.edited[0])
    assert_same_bits(mllm, before)


@pytest.mark.parametrize("editor", [Rewrite(steps=2), Rome(steps=1, layer=1)], ids=lambda one: one.name)
def test_a_delta_says_how_it_was_made(editor: Editor, gill: GILL, tmp_path: Path) -> None:
    neurons = NEURONS if editor.selects else None
    delta = nam.edit(gill, **given(editor=editor, neurons=neurons, seed=3))
    made = read_delta(delta.save(tmp_path / "delta.safetensors")).manifest
    assert made == delta.manifest
    assert made["seed"] == 3
    assert made["settings"]["steps"] == editor.steps
    assert made["prompts"] == [pair.source.prompt for pair in given()["pairs"]]
    assert not {"k", "selection", "method"} & made.keys()


def test_a_delta_says_how_its_neurons_were_selected(gill: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked = torch.arange(128.0).reshape(2, 64)
    scores = Scores(Concept("cat"), "image", "acu", ranked, ranked)
    work = SimpleNamespace(concept=Concept("cat"), scores=[scores], errors={})
    monkeypatch.setattr("nam.editing.attribute_things", lambda *_, **__: [work])
    delta = nam.edit(gill, **given(neurons=None, k=5, reduction="acu"))
    assert [neuron.unit for neuron in delta.neurons] == [59, 60, 61, 62, 63]
    assert delta.manifest["method"] == "acu"
    chosen = delta.manifest["selection"]
    assert (chosen["k"], chosen["by"], chosen["kind"], chosen["contrast"]) == (5, "method", "image", True)
    assert chosen["samples"] == 2


def test_a_model_can_be_edited_twice(gill: GILL) -> None:
    before = weights(gill)
    first = nam.edit(gill, **given())
    with first.applied(gill):
        second = nam.edit(gill, **given(source="dog", target="cat", editor="scale"))
        with second.applied(gill):
            assert torch.count_nonzero(gill.ffn_sites[0].value_vectors[:, 0]) == 0
        assert torch.equal(second.original, first.edited)
    assert_same_bits(gill, before)
    with pytest.raises(EditError, match="apply first what it was made on top of"):
        second.apply(gill)


REFUSED: list[tuple[dict[str, Any], type[NamError], str]] = [
    ({"source": 3}, InputError, "source and target: expected words such as 'cat', got 3"),
    ({"source": ""}, InputError, "the concept is empty"),
    ({"target": "Cat"}, EditError, "source and target of an edit are both 'cat'"),
    ({"source": "zebra", "pairs": None}, ConfigError, "'zebra' is no thing of the scenes"),
    ({"modality": "sound"}, EditError, "edit.modality must be 'text', 'image' or 'both', got 'sound'"),
    ({"k": 0}, ConfigError, "edit.k must be an integer of at least 1, got 0"),
    ({"k": 2.5}, ConfigError, "edit.k must be an integer of at least 1, got 2.5"),
    ({"k": 129, "neurons": None}, EditError, "edit.k=129, but the model has 128 neurons"),
    ({"editor": "rewrit"}, ConfigError, "did you mean 'rewrite'"),
    ({"editor": 3}, ConfigError, "editor: expected one name under configs/editor, or an instance of Editor"),
    ({"reduction": 4}, ConfigError, "reduction: expected one name under configs/reduction"),
    ({"neurons": NeuronSet(())}, EditError, "at least one neuron"),
    ({"neurons": [Neuron(0, 1)]}, EditError, "neurons: expected a nam.types.NeuronSet, got list"),
    (
        {"neurons": NeuronSet((Neuron(1, 64),))},
        EditError,
        "has no neuron L1.U64: expected layers 0 to 1, units 0 to 63",
    ),
    ({"neurons": NeuronSet((Neuron(9, 0),))}, EditError, "has no neuron L9.U0: expected layers 0 to 1"),
    ({"pairs": [("draw a cat", "draw a dog")]}, InputError, "pairs: expected nam.editor.cases.Pair"),
    ({"pairs": []}, EditError, "no request to draw is given"),
    ({"others": ["draw a sun"]}, InputError, "others: expected nam.types.Sample"),
    ({"seed": 1.5}, InputError, "seed must be an integer of at least 0, got 1.5"),
    ({"modality": "text"}, EditError, "the model does not say 'cat' when it is asked to"),
    ({"editor": Rewrite(budget=1e-30)}, EditError, "editor=rewrite found no change of these"),
]


@pytest.mark.parametrize(("wrong", "error", "line"), REFUSED, ids=[line for *_, line in REFUSED])
def test_a_wrong_argument_gets_one_line(
    wrong: dict[str, Any], error: type[NamError], line: str, gill: GILL
) -> None:
    before = weights(gill)
    with pytest.raises(error) as found:
        nam.edit(gill, **given(**wrong))
    assert line in str(found.value)
    assert_same_bits(gill, before)


def test_a_name_is_no_model() -> None:
    name: Any = "tiny_gill"
    with pytest.raises(InputError, match=r"expected a model, as nam.load gives it, got 'tiny_gill'"):
        nam.edit(name, **given())


def test_ctrl_c_is_a_keyboard_interrupt_and_works_again(gill: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    before, handler = weights(gill), signal.getsignal(signal.SIGINT)

    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(EditingModule, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nam.edit(gill, **given())
    assert signal.getsignal(signal.SIGINT) is handler
    assert_same_bits(gill, before)
    assert not any(site.linear._forward_hooks for site in gill.ffn_sites)


def test_a_thread_can_edit(gill: GILL) -> None:
    found: list[Delta] = []
    thread = threading.Thread(target=lambda: found.append(nam.edit(gill, **given())))
    thread.start()
    thread.join()
    assert torch.equal(found[0].edited, nam.edit(gill, **given()).edited)


def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_readme import python_of

    _, opening, python = python_of("Edit").partition("edit = nam.edit(")
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image))
    quick: dict[str, Any] = {"finetune": {"steps": 1, "batch": 2}}
    less = {name: value for name, value in given().items() if name in ("neurons", "pairs", "others")}
    monkeypatch.setattr("nam.editing.edit", partial(nam.edit, **less))
    monkeypatch.setattr("nam.editing.option", lambda group, name: option(group, name, **quick.get(name, {})))
    names: dict[str, Any] = {"nam": nam, "mllm": nam.load("tiny_gill")}
    read = list(names["mllm"].language_model.parameters())  # other parts are read when they are first used
    before = [weight.clone() for weight in read]
    exec(compile(opening + python, "README.md", "exec"), names)
    assert len(shown) == 1
    assert all(torch.equal(one, other) for one, other in zip(read, before, strict=True))
