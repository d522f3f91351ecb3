"""The chain from items to scores on a tiny random model, whose samples fail one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nam
from nam.attribution import Attributor, Work
from nam.clock import Clock
from nam.data.concepts import concept_of
from nam.data.items import Item
from nam.errors import ConfigError, InputError, ModelError, ScoreError
from nam.halving import halve
from nam.hooks import Recorder
from nam.hooks.callback import check
from nam.mllm.gill import GILL
from nam.reduction.gradxact import GradXAct
from nam.reduction.nam import Nam
from nam.relevance.gradient import GradientRelevance
from nam.segmenter.base import GivenMasks, Mask, Segmenter
from nam.segmenter.truth import TruthSegmenter
from nam.types import Concept, Sample
from tests.runs import PROMPTS


class HalfSegmenter(Segmenter):
    """The left half of a picture; nothing for the concepts in `absent`."""

    absent: tuple[str, ...] = ()

    def find(
        self, images: Sequence[Image.Image], concepts: Sequence[Concept], given: Sequence[GivenMasks | None]
    ) -> list[Mask]:
        masks = []
        for image, concept in zip(images, concepts, strict=True):
            pixels = np.zeros((image.height, image.width), dtype=np.bool_)
            pixels[:, : image.width // 2] = concept.name not in self.absent
            masks.append(Mask(pixels, float(pixels.any())))
        return masks


def attributor(gill: GILL, **changes: Any) -> Attributor:
    options: dict[str, Any] = {
        "mllm": gill,
        "segmenter": HalfSegmenter(),
        "relevance": GradientRelevance(),
        "methods": {"nam": Nam(), "gradxact": GradXAct()},
        "draw": True,
        "max_new_tokens": 8,
    }
    return Attributor(**{**options, **changes})


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch, shared_gill: GILL) -> None:
    monkeypatch.setattr(shared_gill.diffusion, "config", replace(shared_gill.config, steps=1))


@pytest.fixture
def items(shared_gill: GILL) -> list[Item]:
    """Prompts whose concept is the last word that the model says."""
    found = []
    for index, prompt in enumerate(PROMPTS[:4]):
        text = shared_gill.generate(prompt, draw=False, max_new_tokens=8).text
        words = [word for word in text.split() if word.isalpha()]
        sample = Sample(id=str(index), prompt=prompt, seed=index, concept=concept_of(words[-1]))
        found.append(Item(index=index, sample=sample))
    return found


def recorder_of(gill: GILL) -> Any:
    return lambda: Recorder(gill, where="answer")


def scores(works: Sequence[Work]) -> dict[tuple[str, str, str], torch.Tensor]:
    return {(work.item.sample.id, s.modality, s.method): s.scores for work in works for s in work.scores}


def assert_close(one: Sequence[Work], other: Sequence[Work]) -> None:
    a, b = scores(one), scores(other)
    assert a.keys() == b.keys()
    for key, mine in a.items():
        torch.testing.assert_close(mine, b[key], rtol=0, atol=1e-4 * float(mine.abs().max()))


def test_recording_gives_what_replaying_gives_and_touches_nothing(
    shared_gill: GILL, items: list[Item]
) -> None:
    run = attributor(shared_gill)
    before = {name: value.clone() for name, value in shared_gill.state_dict().items()}
    recorded = run(items, record=recorder_of(shared_gill))
    assert len(scores(recorded)) == 4 * 2 * 2
    assert not any(work.errors for work in recorded)
    assert_close(recorded, run(items))
    check(shared_gill)
    after = shared_gill.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_chain_gives_what_the_one_call_gives(shared_gill: GILL, items: list[Item]) -> None:
    found = scores(attributor(shared_gill)(items))
    for item in items[:2]:
        sample = item.sample
        assert sample.concept is not None
        out = shared_gill.generate(sample.prompt, seed=sample.seed, draw=True, max_new_tokens=8, steps=1)
        for modality in ("text", "image"):
            for method in ("nam", "gradxact"):
                one = nam.attribute(
                    shared_gill, out, concept=sample.concept.name, modality=modality, reduction=method,
                    segmenter=HalfSegmenter(),
                )  # fmt: skip
                expected = found[sample.id, modality, method]
                atol = 1e-4 * float(expected.abs().max())
                torch.testing.assert_close(one.scores, expected, rtol=0, atol=atol)


def test_a_sample_that_fails_takes_no_other_with_it(
    shared_gill: GILL, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = attributor(shared_gill)(items)
    answer = type(shared_gill)._answer
    sizes: list[int] = []

    def explode(self: GILL, samples: Sequence[Sample], **options: Any) -> Any:
        sizes.append(len(samples))
        if any(sample.id == "2" for sample in samples):
            raise RuntimeError("shapes do not fit\nwith a long trace")
        return answer(self, samples, **options)

    monkeypatch.setattr(type(shared_gill), "_answer", explode)
    broken = attributor(shared_gill)(items, record=recorder_of(shared_gill))
    assert sizes == [4, 2, 2, 1, 1]
    assert broken[2].errors == {"": "RuntimeError: shapes do not fit"}
    assert not broken[2].scores
    assert_close([work for work in whole if work.item.index != 2], broken)
    check(shared_gill)


def test_an_activation_that_is_nan_is_the_error_of_its_own_sample(
    shared_gill: GILL, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorder.recorded.fget
    assert recorded is not None

    def poison(self: Recorder) -> Any:
        found = recorded(self)
        found[1].activations[1, :, 5] = float("nan")
        return found

    whole = attributor(shared_gill)(items)
    monkeypatch.setattr(Recorder, "recorded", property(poison))
    broken = attributor(shared_gill)(items, record=recorder_of(shared_gill))
    assert broken[1].errors["text"].startswith("an activation is nan at layer 1, unit 5")
    assert broken[1].errors["image"] == broken[1].errors["text"]
    assert_close([work for work in whole if work.item.index != 1], [w for w in broken if w.item.index != 1])


def test_a_concept_that_was_not_drawn_or_not_said_is_an_error_of_that_modality(
    shared_gill: GILL, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    concept = items[0].sample.concept
    assert concept is not None
    monkeypatch.setattr(HalfSegmenter, "absent", (concept.name,))
    works = attributor(shared_gill)(items[:1])
    assert works[0].errors == {"image": f"the mask is empty: no {concept.name} was found in the picture"}
    assert {s.modality for s in works[0].scores} == {"text"}
    other = replace(items[0], sample=replace(items[0].sample, concept=Concept("moonlight")))
    works = attributor(shared_gill)([other])
    assert list(works[0].errors) == ["text"]
    assert {s.modality for s in works[0].scores} == {"image"}


def test_an_answer_that_announces_no_picture_has_no_i_neurons(shared_gill: GILL, items: list[Item]) -> None:
    works = attributor(shared_gill, draw=False)(items[:2])
    assert {work.errors["image"] for work in works} == {"nothing was drawn: the answer announces no picture"}


def test_given_masks_are_for_pictures_that_came_with_some(shared_gill: GILL, items: list[Item]) -> None:
    given = np.zeros((64, 64), dtype=np.bool_)
    given[:, :32] = True
    horse = [replace(item, sample=replace(item.sample, concept=Concept("horse"))) for item in items[:3]]
    horse[0] = replace(horse[0], masks={"horse": given, "cat": ~given})
    horse[1] = replace(horse[1], masks={"cat": ~given})
    truth, half = (
        attributor(shared_gill, segmenter=segmenter)(horse)
        for segmenter in (TruthSegmenter(), HalfSegmenter())
    )
    mine, expected = (scores(found)["0", "image", "nam"] for found in (truth, half))
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert truth[1].errors["image"] == "the mask is empty: no horse was found in the picture"
    assert truth[2].errors["image"].startswith("segmenter=truth knows no mask of this picture")
    assert "set segmenter=scenes" in truth[2].errors["image"]


def test_only_what_is_asked_for_is_done(shared_gill: GILL, items: list[Item]) -> None:
    clock = Clock()
    works = attributor(shared_gill)([replace(item, modalities=("text",)) for item in items], clock=clock)
    assert {s.modality for work in works for s in work.scores} == {"text"}
    assert all(work.answer.image is None for work in works)
    assert clock.counts == {"samples": 4, "answers": 4, "pictures": 0}
    assert set(clock.seconds) == {"generate", "replay", "segment", "relevance", "reduce"}


def test_items_with_an_error_or_without_a_concept_pass_through(shared_gill: GILL, items: list[Item]) -> None:
    bad = [replace(items[0], error="no such file"), Item(index=1, sample=Sample(id="1", prompt="a cat"))]
    first, second = attributor(shared_gill)(bad)
    assert first.errors == {"": "no such file"}
    assert second.errors == {"": "there is no concept to look for"}


def test_what_concerns_every_sample_ends_the_run(
    shared_gill: GILL, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModelError("missing weights")

    monkeypatch.setattr(type(shared_gill), "_answer", missing)
    with pytest.raises(ModelError, match="missing weights"):
        attributor(shared_gill)(items)
    with pytest.raises(ConfigError, match="no method is given"):
        attributor(shared_gill, methods={})


def test_halving_blames_each_bad_thing_alone() -> None:
    done: list[int] = []
    blamed: dict[int, str] = {}

    def run(things: list[int]) -> None:
        for thing in things:
            if thing in (3, 6):
                raise InputError(f"bad {thing}")
        done.extend(things)

    halve(run, range(8), lambda thing, why: blamed.update({thing: why}))
    assert sorted(done) == [0, 1, 2, 4, 5, 7]
    assert blamed == {3: "bad 3", 6: "bad 6"}


def test_score_errors_reach_the_caller(shared_gill: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    out = shared_gill.generate("a cat", draw=True, max_new_tokens=4, steps=1)

    def poison(*_: object) -> list[torch.Tensor]:
        return [torch.full((2, 64), float("inf"))]

    monkeypatch.setattr(Nam, "_score_batch", poison)
    with pytest.raises(ScoreError, match=r"^a score of nam is inf"):
        nam.attribute(shared_gill, out, concept="horse", segmenter="none")
