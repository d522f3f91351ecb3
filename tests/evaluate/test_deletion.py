"""Deletion curves where everything adds up, and what they read against loops over plain hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nam.errors import InputError
from nam.evaluate.deletion import area_between, deletion_curves, log_spaced, same_layers
from nam.evaluate.joint import ablated_together, noun_evidence, picture_evidence, text_probability
from nam.evaluate.judge import load_judge
from nam.mllm.gill import GILL
from nam.reduction.ablated import Positions
from nam.reduction.base import Context, contexts_of
from nam.targets import image_target, text_target
from nam.types import Concept, Generation, Neuron, NeuronSet
from nam.world.scene import NOUNS
from tests.evaluate.tiny_judge import write_judge
from tests.families import FAMILIES, build, picture
from tests.reduction.cases import a_word, relevance
from tests.reduction.hand_net import GENERATION, TARGET, HandNet

NOTHING = NeuronSet(())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- the curves ------------------------------------------------------------------------------------------


def additive(worth: NDArray[np.float64], asked: list[NeuronSet]) -> Callable[[Sequence[NeuronSet]], Tensor]:
    """A concept to which each neuron (layer, unit) adds its worth, and nothing else."""

    def read(sets: Sequence[NeuronSet]) -> Tensor:
        asked.extend(sets)
        lost = [sum(worth[neuron.layer, neuron.unit] for neuron in one) for one in sets]
        return torch.tensor(worth.sum() - np.array(lost, dtype=float))

    return read


def test_curves_of_what_adds_up() -> None:
    worth = np.array([[8.0, 4.0, 0.0, 0.0], [2.0, 1.0, 1.0, 0.0]])
    exact = [Neuron(0, 0), Neuron(0, 1), Neuron(1, 0), Neuron(1, 1)]
    poor = [Neuron(1, 1), Neuron(1, 0), Neuron(0, 2), Neuron(0, 0)]
    asked: list[NeuronSet] = []
    found = deletion_curves(
        additive(worth, asked),
        {"best": exact, "poor": poor},
        exact=exact,
        ks=(1, 2, 4),
        width=4,
        rng=rng(),
        draws=400,
    )
    best, other = found["best"], found["poor"]
    assert best.plain == other.plain == 16
    assert best.method == best.exact == other.exact == (8, 4, 1)
    assert other.method == (15, 13, 5)
    # A random neuron of layer 0 is worth 3, one of layer 1 is worth 1.
    assert best.random == pytest.approx((13, 10, 8), abs=0.5)
    assert other.random == pytest.approx((15, 14, 8), abs=0.5)
    # Both steps of log k are as wide: the ends count half.
    expected = [
        ((g[0] + g[2]) / 2 + g[1]) / 2 for g in (np.subtract(c.random, c.method) for c in found.values())
    ]
    assert [best.area, other.area] == pytest.approx(expected)
    assert best.relative == 1
    assert 0 < other.relative < 0.5
    assert len(asked) == len(set(asked))
    assert asked[0] == NOTHING


def test_a_side_effect_may_be_none() -> None:
    worth = np.zeros((2, 4))
    ranking = [Neuron(0, 0), Neuron(1, 0)]
    found = deletion_curves(
        additive(worth, []), {"any": ranking}, exact=ranking, ks=(1, 2), width=4, rng=rng()
    )["any"]
    assert found.area == 0
    assert math.isnan(found.relative)


def test_random_neurons_have_the_layers_of_the_ranking_and_all_units_come_up() -> None:
    ranking = [Neuron(layer, unit) for layer, unit in ((2, 0), (0, 1), (2, 1), (2, 2), (0, 0))]
    generator, seen = rng(), set()
    for _ in range(60):
        drawn = same_layers(ranking, width=4, rng=generator)
        assert [neuron.layer for neuron in drawn] == [2, 0, 2, 2, 0]
        assert len(set(drawn)) == 5
        seen |= set(drawn)
    assert seen == {Neuron(layer, unit) for layer in (0, 2) for unit in range(4)}
    assert same_layers(ranking, width=4, rng=rng()) == same_layers(ranking, width=4, rng=rng())


@pytest.mark.parametrize(
    ("k_max", "count", "expected"),
    [
        (100, 3, (1, 10, 100)),
        (1, 5, (1,)),
        (4, 9, (1, 2, 3, 4)),
        (50, 1, (50,)),
        (64, 7, (1, 2, 4, 8, 16, 32, 64)),
    ],
)
def test_numbers_are_even_on_a_log_scale(k_max: int, count: int, expected: tuple[int, ...]) -> None:
    assert log_spaced(k_max, count) == expected


def test_area_between_lines_is_that_of_their_integral() -> None:
    ks = (1, 3, 10, 100)
    x = np.log(ks)
    # upper - lower = 1 + x: its mean over [0, log 100] is 1 + log(100) / 2.
    assert area_between(ks, (1 + 2 * x).tolist(), x.tolist()) == pytest.approx(1 + np.log(100) / 2)
    assert area_between((7,), [0.75], [0.25]) == 0.5


def test_curves_that_cannot_be_drawn_are_refused() -> None:
    read, ranking = additive(np.ones((1, 4)), []), [Neuron(0, 0), Neuron(0, 1)]
    given = {"exact": ranking, "width": 4, "rng": rng()}
    with pytest.raises(InputError, match="holds 2 neurons, fewer than the top 3"):
        deletion_curves(read, {"a": ranking}, ks=(1, 3), **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one random ranking"):
        deletion_curves(read, {"a": ranking}, ks=(1, 2), draws=0, **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one step"):
        log_spaced(0, 3)
    with pytest.raises(InputError, match="do not fit 2"):
        area_between((1, 2), (1.0,), (1.0,))
    with pytest.raises(InputError, match="must ascend"):
        area_between((2, 1), (1.0, 1.0), (1.0, 1.0))


# --- what they read --------------------------------------------------------------------------------------


def test_probability_in_a_net_by_hand() -> None:
    mllm = HandNet(torch.relu)
    head = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [-1.0, 0.25]]
    mllm.language_model.head.weight.data = torch.tensor(head, dtype=torch.float64)
    target = replace(TARGET, form_ids=frozenset({0, 1, 3}))
    context = contexts_of(mllm, [GENERATION], [target])[0]
    sets = [NOTHING, NeuronSet.of([Neuron(0, 0)]), NeuronSet.of([Neuron(0, 1), Neuron(1, 0), Neuron(1, 2)])]
    first, last = mllm.language_model.decoder.layers

    def by_hand(off: NeuronSet, token: int) -> float:
        x = mllm.language_model.embedding.weight[token].tolist()
        for layer, block in enumerate((first, last)):
            rows, columns = block.fc1.weight.tolist(), block.fc2.weight.tolist()
            a = [max(sum(w * v for w, v in zip(row, x, strict=True)), 0.0) for row in rows]
            a = [0.0 if Neuron(layer, unit) in off else value for unit, value in enumerate(a)]
            x = [
                v + sum(w * value for w, value in zip(row, a, strict=True))
                for v, row in zip(x, columns, strict=True)
            ]
        odds = [math.exp(row[0] * x[0] + row[1] * x[1]) for row in head]
        return (odds[0] + odds[1] + odds[3]) / sum(odds)

    expected = [(by_hand(one, 1) + by_hand(one, 2)) / 2 for one in sets]
    found = text_probability(context, sets)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert len(set(found.tolist())) == 3


def drawn(mllm: GILL) -> Generation:
    found: Generation = mllm.generate(
        "a cat at night", image=picture(1), draw=True, max_new_tokens=6, steps=2, guidance=9.0, seed=3
    )
    return found


def some_sets(mllm: GILL) -> list[NeuronSet]:
    width = mllm.ffn_sites[0].width
    every = [Neuron(site.layer, unit) for site in mllm.ffn_sites for unit in range(width)]
    return [NOTHING, NeuronSet.of(every[::3]), NeuronSet.of(every[:5]), NeuronSet.of(every[-20:])]


def by_loop(context: Context, off: NeuronSet, *, baseline: Tensor | None, positions: Positions) -> Tensor:
    """Last hidden states (P, H), with a hook on every layer that overwrites one neuron after the other."""
    mllm, at = context.mllm, list(context.target.positions)
    length = len(context.generation.token_ids)
    where = at if positions == "target" else list(range(length))
    handles = []
    for site in mllm.ffn_sites:

        def change(module: nn.Module, given: tuple[Tensor], layer: int = site.layer) -> tuple[Tensor]:
            values = given[0].reshape(length, -1).clone()
            for neuron in off:
                if neuron.layer == layer:
                    values[where, neuron.unit] = 0.0 if baseline is None else baseline[layer, neuron.unit]
            return (values.reshape(given[0].shape),)

        handles.append(site.linear.register_forward_pre_hook(change))
    hidden = mllm.replay([context.generation]).hidden[0, at]
    for handle in handles:
        handle.remove()
    return hidden


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["target", "all"])
@pytest.mark.parametrize("away_from", ["zero", "mean"])
def test_words_are_those_of_a_plain_loop(
    gill_folder: Path, family: str, positions: Positions, away_from: str
) -> None:
    mllm = build(family, gill_folder, dtype=torch.float64)
    generation = drawn(mllm)
    context = contexts_of(mllm, [generation], [text_target(mllm, generation, Concept(a_word(generation)))])[0]
    baseline = None
    if away_from == "mean":
        shape = (len(mllm.ffn_sites), mllm.ffn_sites[0].width)
        baseline = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sets, forms = some_sets(mllm), sorted(context.target.form_ids)
    expected = []
    for one in sets:
        hidden = by_loop(context, one, baseline=baseline, positions=positions)
        expected.append(float((hidden @ mllm.unembedding.T).softmax(-1)[:, forms].sum(-1).mean()))
    for batch in (1, 3, 32):
        found = text_probability(context, sets, baseline=baseline, positions=positions, batch=batch)
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert np.ptp(expected) > 1e-2


def test_pictures_are_those_of_a_plain_loop_and_judged_in_their_region_alone(
    gill: GILL, tmp_path: Path
) -> None:
    generation = drawn(gill)
    context = contexts_of(gill, [generation], [image_target(generation, relevance(seed=0))])[0]
    region = np.zeros((64, 64), dtype=bool)
    region[10:40, 20:50] = True
    sets = some_sets(gill)
    shown: list[NDArray[np.uint8]] = []

    def evidence(pictures: NDArray[np.uint8]) -> Tensor:
        shown.extend(pictures)
        return torch.from_numpy(pictures.astype(np.float64).mean((1, 2, 3)))

    found = picture_evidence(context, sets, region=region, evidence=evidence, batch=3)
    before = np.asarray(generation.image)
    assert generation.drawn is not None
    for one, seen, value in zip(sets, shown, found.tolist(), strict=True):
        hidden = by_loop(context, one, baseline=None, positions="target")[None]
        noise = gill.diffusion.noise([generation.seed], like=hidden)
        pixels = (
            gill.drawers["image"]
            .render(hidden, noise, generation.drawn)[0]
            .permute(1, 2, 0)
            .clamp(0, 1)
            .numpy()
            * 255
        )
        assert np.abs(seen[region] - pixels[region]).max() < 0.6
        assert (seen[~region] == before[~region]).all()
        assert value == pytest.approx(seen.mean())
    assert np.abs(shown[0].astype(int) - before).max() <= 1
    assert np.abs(shown[1].astype(int) - before).max() > 2
    judge = load_judge(write_judge(tmp_path))
    column = noun_evidence(judge, "horse")(np.stack(shown))
    torch.testing.assert_close(column, judge.evidence(np.stack(shown))[:, NOUNS.index("horse")])


def test_what_cannot_be_read_is_refused(gill: GILL, tmp_path: Path) -> None:
    generation = drawn(gill)
    image = contexts_of(gill, [generation], [image_target(generation, relevance(seed=0))])[0]
    word = text_target(gill, generation, Concept(a_word(generation)))
    text = contexts_of(gill, [generation], [word])[0]
    whole = {"region": np.ones((64, 64), dtype=bool), "evidence": lambda pictures: torch.zeros(len(pictures))}
    with pytest.raises(InputError, match="target of a word"):
        text_probability(image, [NOTHING])
    with pytest.raises(InputError, match="target of a picture"):
        picture_evidence(text, [NOTHING], **whole)  # type: ignore[arg-type]
    undrawn = replace(image, generation=replace(generation, image=None, latents=None, drawn=None))
    with pytest.raises(InputError, match="nothing was drawn"):
        picture_evidence(undrawn, [NOTHING], **whole)  # type: ignore[arg-type]
    for region in (np.ones((32, 64), dtype=bool), np.zeros((64, 64), dtype=bool), np.ones((64, 64))):
        with pytest.raises(InputError, match="bool mask"):
            picture_evidence(image, [NOTHING], **whole | {"region": region})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no neuron L9\.U0"):
        text_probability(text, [NeuronSet.of([Neuron(9, 0)])])
    with pytest.raises(InputError, match="at least one set"):
        list(ablated_together(text, []))
    with pytest.raises(InputError, match="did you mean 'horse'"):
        noun_evidence(load_judge(write_judge(tmp_path)), "hors")
    assert gill.layout is None
    assert not any(site.linear._forward_pre_hooks for site in gill.ffn_sites)
