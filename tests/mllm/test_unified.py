"""Models that draw token by token: as transformers itself would, one by one or together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

from nam.hooks import Recorder
from nam.mllm.tiny_unified import read_tiny_unified
from nam.mllm.unified import Unified
from nam.reduction.acu import AcU
from nam.reduction.base import Method, contexts_of
from nam.reduction.gradxact import GradXAct
from nam.reduction.nam import Nam
from nam.types import Generation
from tests.mllm.asked import assert_close
from tests.mllm.drawing import FAMILIES, PROMPTS, REGION, SEEDS, drawn, tiny


@pytest.fixture(scope="module", autouse=True)
def clear() -> Iterator[None]:
    yield
    tiny.cache_clear()
    drawn.cache_clear()


def greedy(family: str) -> Unified:
    """A model that all but always takes the likeliest token; its own class may say any token."""
    model = read_tiny_unified(family=family, temperature=1e-6)
    model.language_model.generation_config = GenerationConfig(
        bos_token_id=model.tokenizer.bos_token_id,
        pad_token_id=model.tokenizer.pad_token_id,
        eos_token_id=model.tokenizer.eos_token_id,
    )
    return model


def grid_of(model: Unified, generation: Generation) -> Tensor:
    """The picture's tokens (h, w), of a family without ends of rows."""
    return torch.tensor(generation.token_ids[-model.tokens_of_picture :]).view(model.grid)


def assert_same_picture(one: Image.Image, other: Image.Image) -> None:
    assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


# --- as transformers would -------------------------------------------------------------------------------


def test_janus_draws_as_its_own_class() -> None:
    model, (prompt, *_) = greedy("janus"), PROMPTS
    processor = model.chat.processor
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": prompt}]}], add_generation_prompt=True
    )
    given = processor(text=text, generation_mode="image", return_tensors="pt")
    model.language_model.generation_config.generation_kwargs = {"boi_token_id": model.begin_id}
    tokens = model.language_model.generate(
        **given, generation_mode="image", guidance_scale=3.0, do_sample=False, max_length=64
    )
    ours = model.generate(prompt, draw=True)
    assert ours.token_ids[: -model.tokens_of_picture] == tuple(given["input_ids"][0].tolist())
    assert torch.equal(grid_of(model, ours).flatten(), tokens[0] + model.words)  # type: ignore[attr-defined]
    with torch.no_grad():
        painted = model.language_model.decode_image_tokens(tokens)[0].numpy()
    theirs = np.clip((painted + 1) / 2 * 255, 0, 255)  # as in the published code
    assert_same_picture(ours.image, Image.fromarray(theirs.astype(np.uint8)))  # type: ignore[arg-type]


def test_emu3_draws_as_its_own_class() -> None:
    model = greedy("emu3")
    processor, inner = model.chat.processor, model.language_model
    area = {"return_for_image_generation": True, "ratio": "1:1", "image_area": 32 * 32}
    given = processor(text=["a cat at night"], return_tensors="pt", **area)
    free = processor(text=["nothing"], return_tensors="pt", **area)
    height, width = given.pop("image_sizes")[0]
    start = given["input_ids"].shape[1]

    def allowed(row: int, ids: Tensor) -> list[int]:
        ends = (len(ids) - start) % (width + 1) == width
        return [model.end_of_row] if ends else inner.vocabulary_mapping.image_tokens  # type: ignore[list-item]

    count = height * (width + 1)
    theirs = inner.generate(
        **given,
        negative_prompt_ids=free["input_ids"],
        negative_prompt_attention_mask=free["attention_mask"],
        guidance_scale=3.0,
        prefix_allowed_tokens_fn=allowed,
        do_sample=False,
        min_new_tokens=count,
        max_new_tokens=count,
    )[0, start:]
    ours = model.generate("a cat", draw=True)
    assert ours.token_ids == (*given["input_ids"][0].tolist(), *theirs[:-1].tolist())
    padded = torch.cat([theirs, theirs.new_zeros(3)])[None]  # in place of the tokens that end a picture
    pixels = inner.decode_image_tokens(image_tokens=padded, height=height, width=width)
    picture = processor.postprocess(list(pixels.float()), return_tensors="PIL.Image.Image")["pixel_values"][0]
    assert_same_picture(ours.image, picture)  # type: ignore[arg-type]


def test_chameleon_draws_what_is_likeliest_in_whole_forward_passes() -> None:
    model = greedy("chameleon")
    inner, ours = model.language_model, model.generate("a cat", draw=True)
    ids, free = (
        list(ours.token_ids[: -model.tokens_of_picture]),
        [model.tokenizer.bos_token_id, model.begin_id],
    )
    assert ids[-2:] == [model.tokenizer.sep_token_id, model.begin_id]
    codes = torch.tensor(inner.model.vocabulary_mapping.image_tokens)
    for token in ours.token_ids[len(ids) :]:
        with torch.no_grad():
            c, u = (
                inner.lm_head(inner.model(torch.tensor([one])).last_hidden_state[0, -1])
                for one in (ids, free)
            )
        likeliest = int(codes[(u + 3.0 * (c - u))[codes].argmax()])
        assert token == likeliest
        ids, free = [*ids, token], [*free, token]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_is_read_as_by_transformers(family: str) -> None:
    model = tiny(family)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    out = model.generate("what is this?", image=picture, max_new_tokens=6)
    text = model.chat.templated("what is this?", has_picture=True)
    given = model.chat.processor(text=[text], images=[picture], return_tensors="pt")
    start = given["input_ids"].shape[1]
    quiet = {"suppress_tokens": sorted({*model.quiet_ids, *model.chat.placeholder_ids, model.chat.pad_id})}
    theirs = model.language_model.generate(**given, max_new_tokens=6, do_sample=False, **quiet)[0, start:]
    assert out.answer_ids == tuple(theirs.tolist())[: len(out.answer_ids)]
    assert len(out.answer_ids) > 2
    assert not set(out.answer_ids) & model.quiet_ids


# --- alone and together ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_does_not_depend_on_the_others(family: str) -> None:
    model, together = tiny(family), drawn(family)
    for prompt, seed, one in zip(PROMPTS, SEEDS, together, strict=True):
        alone = model.generate(prompt, seed=seed, draw=True)
        assert (alone.token_ids, alone.spans, alone.drawn) == (one.token_ids, one.spans, one.drawn)
        assert_same_picture(alone.image, one.image)  # type: ignore[arg-type]
    assert model.generate(PROMPTS[0], seed=5, draw=True).token_ids != together[0].token_ids
    assert model.generate(PROMPTS[0], seed=4, draw=True, guidance=1.0).token_ids != together[0].token_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_the_replay_reads_what_was_drawn(family: str) -> None:
    model = tiny(family)
    recorder = Recorder(model)
    pictures = model.generate(PROMPTS, seed=SEEDS, draw=True, record=recorder)
    said = model.generate("a dog", max_new_tokens=5)
    replayed = Recorder(model)
    again = model.replay([*pictures, said], record=replayed)
    for row, picture in enumerate(pictures):
        # All but the last token are read while drawing, the prompt's last one too.
        positions = range(picture.spans.img.start - 1, len(picture.token_ids) - 1)
        one, other = recorder.recorded[row], replayed.recorded[row].at(tuple(positions))
        assert one.positions == tuple(positions)
        assert_close(one.activations, other.activations)
        if model.keeps_states:
            first = again.offsets[row] + len(picture.token_ids) - model.tokens_of_picture - 1
            assert_close(picture.hidden, again.hidden[row, first:-1])  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [Nam(), AcU(norm="fold"), GradXAct()], ids=["nam", "fold", "gradient"])
def test_scores_of_pictures_do_not_depend_on_batch_and_padding(family: str, method: Method) -> None:
    model, pictures = tiny(family), drawn(family)
    targets = [model.picture_target(one, torch.from_numpy(REGION)) for one in pictures]
    together = method.score_batch(contexts_of(model, pictures, targets))
    for one, target, scores in zip(pictures, targets, together, strict=True):
        assert_close(scores, method.score(contexts_of(model, [one], [target])[0]))
        assert float(scores.std()) > 0
