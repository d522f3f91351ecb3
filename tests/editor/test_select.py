"""Selections against sets worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nam.editor.delta import EditError
from nam.editor.ranking import rankings_of, read_means, write_means
from nam.editor.select import Ranking, Selection, layer_neurons, refuse_impossible, select
from nam.errors import ConfigError
from nam.types import Modality

#: Two layers of four neurons. By flat index, the T-neurons are 7, 0, 3, 5, ..., the I-neurons 0, 6, 7, 1, ...
TEXT = torch.tensor([[8.0, 1, 2, 7], [0, 6, 3, 9]])
IMAGE = torch.tensor([[9.0, 6, 0, 1], [2, 3, 8, 7]])
RANKINGS: dict[Modality, Ranking] = {
    "text": Ranking(TEXT, -TEXT),
    "image": Ranking(IMAGE, torch.arange(8.0).view(2, 4)),
}


def chosen(**options: object) -> set[int]:
    found = select(RANKINGS, Selection(**options))  # type: ignore[arg-type]
    return {4 * neuron.layer + neuron.unit for neuron in found}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("text", {7, 0, 3}),
        ("image", {0, 6, 7}),
        ("both", {7, 0, 6}),
        ("intersection", {0, 7, 5}),  # the worse of the two ranks: 1, 2, 4; 6 has 4 as well, and comes after
        ("text_without_image", {3, 5, 2}),
        ("image_without_text", {6, 1, 5}),
    ],
)
def test_kinds(kind: str, expected: set[int]) -> None:
    assert chosen(k=3, kind=kind) == expected


def test_layers_limit_the_choice_and_may_leave_too_few() -> None:
    assert chosen(k=2, kind="text", layers=(0, 0)) == {0, 3}
    assert chosen(by="layer", layers=(1, 1)) == {4, 5, 6, 7}
    with pytest.raises(EditError, match="only 4 can be had"):
        chosen(k=5, kind="text", layers=(1, 1))
    with pytest.raises(EditError, match="the model's layers are 0 to 1"):
        chosen(k=1, layers=(0, 2))


def test_controls() -> None:
    assert chosen(k=3, by="active", kind="image") == {7, 6, 5}
    taken = chosen(k=3, kind="image")
    for seed in range(5):
        random = chosen(k=3, kind="image", by="random", seed=seed)
        assert [sum(n // 4 == layer for n in random) for layer in (0, 1)] == [1, 2]
        assert not random & taken
    assert chosen(k=3, by="random", seed=1) == chosen(k=3, by="random", seed=1)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"k": 0}, "edit.k must be an integer of at least 1, got 0"),
        ({"k": 2.5}, "edit.k must be an integer of at least 1, got 2.5"),
        ({"seed": -1}, "edit.select.seed must be an integer of at least 0, got -1"),
        ({"layers": ("a", "b")}, "first, last"),
        ({"kind": "sound"}, "edit.select.kind"),
        ({"by": "luck"}, "edit.select.by"),
        ({"layers": (2, 1)}, "first, last"),
    ],
)
def test_wrong_options(options: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Selection(**options)  # type: ignore[arg-type]


def test_a_missing_ranking_is_named() -> None:
    with pytest.raises(EditError, match="needs scores of the text and the image"):
        select({}, Selection(kind="both"))


def test_contrast_subtracts_the_other_concepts_mean() -> None:
    zero = torch.zeros(2, 4)
    means = {("cat", "image"): (IMAGE, zero), ("dog", "image"): (TEXT, zero), ("sun", "image"): (zero, zero)}
    plain = rankings_of(means, "cat", contrast=False)
    assert torch.equal(plain["image"].scores, IMAGE)
    assert torch.equal(rankings_of(means, "cat", contrast=True)["image"].scores, IMAGE - TEXT / 2)
    with pytest.raises(EditError, match=r"no scores of 'fish'.*cat, dog, sun"):
        rankings_of(means, "fish", contrast=True)


def test_means_on_disk_are_the_means(tmp_path: Path) -> None:
    means = {("a/b", "image"): (TEXT, IMAGE), ("cat", "text"): (IMAGE + 1, TEXT + 1)}
    write_means(means, tmp_path / "means.safetensors")
    read = read_means(tmp_path / "means.safetensors")
    assert read.keys() == means.keys()
    assert all(torch.equal(x, y) for key in means for x, y in zip(read[key], means[key], strict=True))


def test_whole_layers_need_no_ranking() -> None:
    assert [(n.layer, n.unit) for n in layer_neurons((3, 2), (1, 2))] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert len(layer_neurons((3, 2), None)) == 6
    with pytest.raises(EditError, match="the model's layers are 0 to 2"):
        layer_neurons((3, 2), (1, 3))


def test_what_no_ranking_can_give_is_refused_before_there_is_one() -> None:
    refuse_impossible((3, 2), Selection(k=6))
    refuse_impossible((3, 2), Selection(k=7, by="layer"))
    with pytest.raises(EditError, match=r"edit.k=7, but the model has 6 neurons: lower edit.k"):
        refuse_impossible((3, 2), Selection(k=7))
    with pytest.raises(EditError, match=r"has 2 neurons in edit.select.layers=\[1, 1\]"):
        refuse_impossible((3, 2), Selection(k=3, layers=(1, 1)))


def test_what_was_not_looked_at_is_not_said() -> None:
    best = Selection(k=3, layers=(0, 1)).facts("acu", contrast=False, samples=None)
    assert best["method"] == "acu"
    told = best["selection"]
    assert (told["k"], told["layers"], told["samples"]) == (3, [0, 1], None)
    whole = Selection(by="layer", layers=(1, 1)).facts("acu", contrast=True, samples=2)
    assert whole == {"selection": {"by": "layer", "layers": [1, 1]}}
