"""Neurons that a paper names: found by either counting of the layers, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nam.app.attribute import main
from nam.app.config import compose
from nam.errors import ConfigError, InputError
from nam.evaluate.named import NamedNeurons, shares, verdict
from nam.mllm.tiny_gill import write_opt
from tests.runs import run_command

NEURONS: list[dict[str, Any]] = [
    {"concept": "horse", "modality": "both", "neuron": "L1.U5", "words": ["horse", "dog"]},
    {"concept": "cat", "modality": "text", "neuron": "L2.U7", "words": ["cat"]},
    {"concept": "sea", "modality": "image", "neuron": "L2.U9", "words": []},
]


@pytest.fixture
def opt(tmp_path: Path) -> Path:
    """A tiny OPT in the files of the hub whose neurons L0.U5 and L1.U7 write what the paper's list says, so
    that its layers count from 1."""
    folder = tmp_path / "opt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_opt(folder, num_hidden_layers=3)
    vocab = json.loads((folder / "vocab.json").read_text())
    path = folder / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    words = state["model.decoder.embed_tokens.weight"]
    # A blank as OPT's byte-level tokenizer writes it stands before each word.
    horse, dog, cat = (words[vocab[f"\u0120{word}"]].clone() for word in ("horse", "dog", "cat"))
    state["model.decoder.layers.0.fc2.weight"][:, 5] = 3 * (horse + dog)
    state["model.decoder.layers.1.fc2.weight"][:, 7] = 3 * cat
    torch.save(state, path)
    return folder


def test_the_experiment_says_how_the_layers_count(
    opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    listed = json.dumps(NEURONS).replace('"', "")
    settings = [f"mllm.id={opt}", "evaluate.words=3", f"evaluate.neurons={listed}", "run_dir=out"]
    run_command(main, "experiment=paper_table1", *settings)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["share_found"] == {"0": 0.0, "1": 1.0}
    line = "the paper's layers count from 1: 100% of its words are found, 0% if they counted from 0"
    assert found["verdict"] == line
    assert line in capsys.readouterr().out
    rows = {(row["neuron"], row["counting"]): row for row in found["neurons"]}
    assert sorted(rows["L1.U5", 1]["found"]) == ["dog", "horse"]
    assert rows["L2.U7", 1]["words"][0] == "cat"
    assert rows["L2.U9", 1]["expected"] == rows["L2.U9", 1]["found"] == []
    assert len(rows["L2.U9", 0]["words"]) == 3


def test_the_paper_s_neurons_are_listed() -> None:
    cfg = compose("attribute", ["experiment=paper_table1"])
    named = NamedNeurons(neurons=cfg.evaluate.neurons, words=cfg.evaluate.words)
    assert cfg.mllm.id == "facebook/opt-6.7b"
    assert [str(one.neuron) for one in named.neurons] == [
        *("L23.U5318", "L24.U10710", "L24.U12845", "L30.U2503", "L28.U10626", "L25.U3913"),
        *("L27.U9810", "L27.U413"),
    ]
    assert named.neurons[0].words == ("horses", "horse", "Horses")


def test_shares_are_means_over_the_neurons_with_words() -> None:
    from nam.evaluate.named import Written

    one, other, unsaid = NamedNeurons(neurons=NEURONS).neurons
    written = [
        *(Written(one, 0, ("horse",), ("horse",)), Written(one, 1, (), ())),
        *(Written(other, 0, (), ()), Written(other, 1, ("cat",), ("cat",))),
        *(Written(unsaid, 0, ("sea",), ()), Written(unsaid, 1, ("sea",), ())),
    ]
    assert shares(written) == {0: 0.25, 1: 0.5}
    assert verdict({0: 0.0, 1: 0.0}) == "neither counting of the layers fits better: no word was found"
    assert "both find 50%" in verdict({0: 0.5, 1: 0.5})
    assert verdict({0: 1.0, 1: 0.5}).startswith("the paper's layers count from 0: 100%")


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ([{**NEURONS[0], "neuron": "23.5318"}], "expected a neuron written like L3.U17, got '23.5318'"),
        (
            [{"concept": "horse"}],
            r"expected concept, modality, neuron, words of each neuron, got \['concept'\]",
        ),
        ([NEURONS[2]], "at least one neuron with words"),
        ([], "at least one neuron with words"),
    ],
)
def test_wrong_lists_are_refused(neurons: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NamedNeurons(neurons=neurons)


def test_neurons_that_the_model_has_not_are_named(opt: Path) -> None:
    import nam

    model = nam.load("vlm", id=opt, dtype="float32")
    for neuron, message in (("L4.U5", r"has no neuron L4\.U5"), ("L0.U5", "L0.U5 is no neuron where layers")):
        with pytest.raises(InputError, match=message):
            NamedNeurons(neurons=[{**NEURONS[0], "neuron": neuron}]).check(model)
