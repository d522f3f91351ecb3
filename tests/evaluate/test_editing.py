"""What an edit did, on answers that are written by hand and against plain recomputation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nam.data.concepts import concept_of
from nam.data.edits import Asked, PromptKind, ScenePairs
from nam.editor.cases import streams_of
from nam.editor.columns import Changed
from nam.errors import ConfigError
from nam.evaluate.edit_reading import drift, resemblance
from nam.evaluate.editing import EditPrompts, Seen, matrix, measure, observe, pixel_change
from nam.evaluate.judge import Verdict
from nam.mllm.gill import GILL
from nam.types import Generation, Sample, Spans
from tests.editor.problems import NEURONS
from tests.families import answers


def seen(
    kind: PromptKind,
    noun: str,
    text: str = "",
    *,
    drawn: tuple[tuple[str, str], ...] | None = None,
    place: str = "grass",
    grey: int = 0,
) -> Seen:
    """An answer to a request for a red thing on the grass."""
    image = None if drawn is None else Image.new("RGB", (64, 64), (grey, grey, grey))
    generation: Any = SimpleNamespace(text=text, image=image)
    verdict = None
    if drawn is not None:
        verdict = Verdict(MappingProxyType({name: (colour, 0.9) for name, colour in drawn}), place, 0.9)
    return Seen(Asked(Sample(id="x", prompt="x"), kind, noun, "red", "grass"), generation, verdict)


RED_CAT, RED_DOG, BLUE_DOG = (("cat", "red"),), (("dog", "red"),), (("dog", "blue"),)


def test_every_measure_by_hand() -> None:
    before = [
        seen("draw", "cat", "here is a red cat", drawn=RED_CAT),
        seen("draw", "cat", "here is a red cat", drawn=RED_CAT),
        seen("draw", "cat", "here is a red cat", drawn=RED_CAT),
        seen("caption", "cat", "a red cat on the grass"),
        seen("riddle", "cat", "a cat"),
        seen("draw_riddle", "cat", "here is a cat", drawn=RED_CAT),
        seen("draw", "boat", "here is a red boat", drawn=(("boat", "red"),), grey=10),
        seen("draw", "sun", "here is a red sun", drawn=(("sun", "red"),)),
        seen("caption", "boat", "a red boat"),
        seen("riddle", "sun", "the sun"),
    ]
    after = [
        seen("draw", "cat", "here is a red cat", drawn=RED_DOG),
        seen("draw", "cat", "here is a red dog", drawn=BLUE_DOG, place="sea"),
        seen("draw", "cat", "here is a red cat", drawn=(*RED_CAT, *RED_DOG)),
        seen("caption", "cat", "a red dog on the grass"),
        seen("riddle", "cat", "a cat"),
        seen("draw_riddle", "cat", "here is a cat", drawn=RED_DOG),
        seen("draw", "boat", "here is a red boat", drawn=(("boat", "blue"),), grey=61),
        seen("draw", "sun", "here is a red moon", drawn=(("moon", "red"),)),
        seen("caption", "boat", "a blue boat"),
        seen("riddle", "sun", "the sun"),
    ]
    found = observe(before, after, source="cat", target="dog")
    assert found["drawn"] == [1, 1, 0]
    assert found["source_drawn"] == [0, 0, 1]
    assert found["said"] == [0, 1, 0]
    assert found["caption_said"] == [1]
    assert found["colour_kept"] == [1, 0]
    assert found["place_kept"] == [1, 0]
    assert found["place_before"] == [1, 1, 1]
    assert found["words_kept"] == [1, 0, 1]
    assert found["caption_kept"] == [0]
    assert found["picture_kept"] == [0, 0, 0]
    assert (found["riddle_said"], found["riddle_source_said"]) == ([0], [1])
    assert (found["riddle_drawn"], found["riddle_source_drawn"]) == ([1], [0])
    assert found["others_drawn"] == [1, 0]
    assert found["others_scene"] == [0, 0]
    assert found["others_text"] == [1, 0]
    assert found["others_caption"] == [0]
    assert found["others_riddle"] == [1]
    assert found["others_pixels"] == pytest.approx([51 / 255, 0])
    means = measure(before, after, source="cat", target="dog")
    assert means["drawn"] == pytest.approx(2 / 3)
    assert measure(before[:3], after[:3], source="cat", target="dog")["others_drawn"] is None
    assert matrix(after)["cat"] == {"dog": 1.0, "cat": pytest.approx(1 / 3)}


def test_a_picture_that_is_missing_has_changed_wholly() -> None:
    drawn, missing = seen("draw", "cat", drawn=RED_CAT), seen("draw", "cat")
    assert pixel_change(drawn, missing) == pixel_change(missing, drawn) == 1.0
    assert pixel_change(missing, missing) == 0.0


def saying(mllm: GILL, words: str) -> Generation:
    """An answer of the random model, with other words put into its mouth."""
    given = answers(mllm)[0]
    ids = tuple(mllm.tokenizer(words, add_special_tokens=False)["input_ids"])
    tokens = (*given.token_ids[: given.spans.answer.start], *ids, *given.token_ids[given.spans.img.start :])
    lengths = {name: len(getattr(given.spans, name)) for name in ("system", "picture", "text", "img")}
    return replace(given, token_ids=tokens, spans=Spans.of_lengths(**lengths, answer=len(ids)), text=words)


def test_probabilities_are_those_of_the_position_that_says_the_word(gill: GILL) -> None:
    generation = saying(gill, "here is a cat and a cat")
    one = Seen(Asked(Sample(id="x", prompt="x"), "draw", "cat"), generation, None)
    other = Seen(Asked(Sample(id="x", prompt="y"), "draw", "boat"), saying(gill, "here is a boat"), None)
    change = torch.randn(len(NEURONS), 32, generator=torch.Generator().manual_seed(0))
    before = streams_of(gill, [one.generation, other.generation])
    same = drift(gill, [one, other], before, source="cat", target="dog")
    assert same["source_kl"] == pytest.approx(0, abs=1e-6)
    assert same["draw_p_source"] == pytest.approx(same["draw_p_source_before"])
    assert same["others_top1"] == 1.0
    with Changed(gill, NEURONS, change):
        found = drift(gill, [one, other], before, source="cat", target="dog")
        edited = gill.replay([generation]).hidden[0]
    plain = gill.replay([generation]).hidden[0]
    spelled = partial(gill.tokenizer, add_special_tokens=False)
    place = generation.answer_ids.index(spelled("cat")["input_ids"][0])
    row = generation.spans.answer.start - 1 + place
    for when, hidden in (("_before", plain), ("", edited)):
        said = (hidden[row].double() @ gill.unembedding.double().T).softmax(-1)
        for name, word in (("source", "cat"), ("target", "dog")):
            every = [spelled(form)["input_ids"] for form in concept_of(word).words]
            whole = sum(float(said[ids[0]]) for ids in every if len(ids) == 1)
            assert found[f"draw_p_{name}{when}"] == pytest.approx(whole, abs=1e-5)
    apart = found["source_kl"]
    assert isinstance(apart, float)
    assert apart > 1e-3


class HandClip:
    """Texts and pictures as vectors of two dimensions: how much cat, how much dog."""

    weight = 1.0

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float("cat" in text), float("dog" in text)] for text in texts])

    def embed_pictures(self, pictures: list[Image.Image]) -> torch.Tensor:
        greys = [np.asarray(picture)[0, 0, 0] / 255 for picture in pictures]
        return torch.tensor([[1 - grey, grey] for grey in greys], dtype=torch.float32)


def test_clip_compares_the_two_captions() -> None:
    clip: Any = HandClip()
    before = [seen("draw", "cat", drawn=RED_CAT, grey=0), seen("draw", "cat", drawn=RED_CAT, grey=0)]
    after = [seen("draw", "cat", drawn=RED_DOG, grey=255), seen("draw", "cat", drawn=RED_CAT, grey=51)]
    found = resemblance(clip, before, after, source="cat", target="dog")
    assert found["clip_source_before"] == [1, 1]
    assert found["clip_target_before"] == [0, 0]
    assert found["clip_target"] == pytest.approx([1, 0.2 / np.hypot(0.8, 0.2)])
    assert found["clip_turned"] == [1, 0]
    nothing = resemblance(clip, [seen("draw", "cat")], [seen("draw", "cat")], source="cat", target="dog")
    assert nothing["clip_turned"] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("draw", 0), ("seeds", 0), ("batch", 0), ("riddles", -1), ("others", -1), ("draw", 2.5)],
)
def test_numbers_of_prompts_that_cannot_be_are_refused(key: str, value: float) -> None:
    options: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError, match=rf"evaluate\.{key} must be an integer of at least .*, got {value}"):
        EditPrompts(**options)


def test_held_out_prompts_never_meet_the_edits_own() -> None:
    prompts = ScenePairs(seed=3)
    held = EditPrompts(draw=6, riddles=3, captions=2).asked(prompts, "cat")
    made_on = [*prompts.of("cat"), *prompts.kept("cat")]
    assert not {(a.noun, a.colour, a.place) for a in held if a.colour} & {
        (a.noun, a.colour, a.place) for a in made_on if a.colour
    }
    assert not {a.sample.prompt for a in held if a.draws} & {a.sample.prompt for a in made_on}
    assert len({a.sample.id for a in held}) == len(held)
