"""Generation: the same whatever the batch, the same as independent references, lazy, quick."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import nam
from nam.mllm.gill import GILL
from nam.types import PICTURE_ID, Generation, Sample, Span
from tests.families import picture

PROMPTS = (
    "draw a red horse on the grass",
    "what is this?",
    "a cat at night .",
    "draw a blue fish and a yellow bird by the sea",
    "a dog",
)


def grey_levels_apart(a: Generation, b: Generation) -> int:
    assert a.image is not None
    assert b.image is not None
    return int(np.abs(np.asarray(a.image).astype(int) - np.asarray(b.image).astype(int)).max())


def assert_same(a: Generation, b: Generation) -> None:
    assert a.token_ids == b.token_ids
    assert a.finish == b.finish
    assert a.spans == b.spans
    assert a.text == b.text
    assert (a.image is None) == (b.image is None)
    if a.image is not None:
        assert grey_levels_apart(a, b) <= 1
    if a.hidden is not None and b.hidden is not None:
        torch.testing.assert_close(a.hidden, b.hidden, atol=1e-4, rtol=0)


def test_a_result_does_not_depend_on_its_batch(shared_gill: GILL) -> None:
    images = [None, picture(1), None, picture(2, (90, 40)), picture(3)]
    seeds = [5, 6, 7, 8, 9]
    batch = shared_gill.generate(prompt=PROMPTS, image=images, seed=seeds)
    alone = [
        shared_gill.generate(prompt=p, image=i, seed=s)
        for p, i, s in zip(PROMPTS, images, seeds, strict=True)
    ]
    backwards = shared_gill.generate(prompt=PROMPTS[::-1], image=images[::-1], seed=seeds[::-1])[::-1]
    for a, b, c in zip(batch, alone, backwards, strict=True):
        assert_same(a, b)
        assert_same(a, c)
    # The claim is empty unless the batch mixes answers of different lengths, with and without pictures.
    assert len({len(g.token_ids) for g in batch}) > 2
    assert {g.image is None for g in batch} == {True, False}


def test_forced_pictures_do_not_depend_on_their_batch(shared_gill: GILL) -> None:
    batch = shared_gill.generate(prompt=PROMPTS, seed=3, draw=True, max_new_tokens=3)
    for prompt, generation in zip(PROMPTS, batch, strict=True):
        assert_same(generation, shared_gill.generate(prompt=prompt, seed=3, draw=True, max_new_tokens=3))
    assert {generation.finish for generation in batch} == {"length", "img"}


def test_seed_prompt_and_picture_decide_the_picture(shared_gill: GILL) -> None:
    def draw(**changes: object) -> Generation:
        return shared_gill.generate(**{"prompt": "a dog", "seed": 1, "draw": True, **changes})

    first = draw()
    assert np.array_equal(np.asarray(first.image), np.asarray(draw().image))
    assert grey_levels_apart(first, draw(seed=2)) > 1
    assert grey_levels_apart(first, draw(prompt="a blue star")) > 1
    assert grey_levels_apart(first, draw(guidance=1)) > 1
    assert grey_levels_apart(first, draw(steps=7)) > 1
    with_picture = draw(image=picture(0))
    assert with_picture.hidden is not None
    assert first.hidden is not None
    assert not torch.allclose(with_picture.hidden, draw(image=picture(1)).hidden, atol=1e-5)


def test_text_is_that_of_transformers_own_greedy_search(shared_gill: GILL) -> None:
    codec = shared_gill.codec
    for prompt in PROMPTS:
        ours = shared_gill.generate(prompt=prompt, draw=False)
        ids = torch.tensor([ours.token_ids[: ours.spans.text.stop]])
        theirs = shared_gill.language_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=40,
            do_sample=False,
            suppress_tokens=[codec.pad_id, *codec.img_ids[1:]],
            eos_token_id=[codec.eos_id, codec.img_ids[0]],
        )[0, ids.shape[1] :].tolist()
        ends = {"stop": [codec.eos_id], "img": [codec.img_ids[0]], "length": []}
        assert [*ours.answer_ids, *ends[ours.finish]] == theirs


def test_replay_reads_what_was_generated(shared_gill: GILL) -> None:
    images = [None, picture(1), None, picture(2), picture(3)]
    generations = shared_gill.generate(prompt=PROMPTS, image=images, draw=False)
    with torch.no_grad():
        replayed = shared_gill.replay(generations)
        logits = replayed.hidden @ shared_gill.unembedding.T
    banned = [shared_gill.codec.pad_id, *shared_gill.codec.img_ids[1:]]
    logits[..., banned] = float("-inf")
    for row, generation in enumerate(generations):
        shift = replayed.offsets[row]
        assert int(replayed.mask[row].sum()) == len(generation.token_ids)
        answer = generation.spans.answer
        predicted = logits[row, shift + answer.start - 1 : shift + answer.stop - 1].argmax(-1)
        assert tuple(predicted.tolist()) == generation.answer_ids
        if generation.hidden is not None:
            img = generation.spans.img
            hidden = replayed.hidden[row, shift + img.start : shift + img.stop]
            torch.testing.assert_close(hidden, generation.hidden, atol=1e-4, rtol=0)
    assert any(generation.hidden is not None for generation in generations)


def test_spans_name_every_token(shared_gill: GILL) -> None:
    out = shared_gill.generate(prompt="a dog", image=picture(0), draw=True, max_new_tokens=2)
    spans = out.spans
    assert spans.system == Span(0, 1)
    assert out.token_ids[0] == shared_gill.codec.bos_id
    assert set(out.token_ids[1:6]) == {PICTURE_ID}
    assert list(spans.picture) == [1, 2, 3, 4, 5]
    words = [out.token_ids[i] for i in spans.text]
    assert shared_gill.tokenizer.convert_ids_to_tokens(words) == ["a", "dog", "."]
    assert tuple(out.token_ids[i] for i in spans.img) == shared_gill.codec.img_ids
    assert len(spans) == len(out.token_ids)
    assert out.prompt == "a dog ."


def test_a_picture_alone_is_asked_for_its_caption(shared_gill: GILL) -> None:
    out = shared_gill.generate(image=picture(0), draw=False)
    assert out.prompt == "a picture of"
    same = shared_gill.generate(prompt="a picture of", image=Image.fromarray(picture(0)), draw=False)
    assert_same(out, same)


def test_draw_decides(shared_gill: GILL) -> None:
    announced = shared_gill.generate(prompt=PROMPTS[2], draw=False)
    assert announced.finish == "img"
    assert announced.image is None
    assert announced.latents is None
    assert announced.hidden is not None
    assert announced.hidden.shape == (8, 32)
    quiet = shared_gill.generate(prompt=PROMPTS[1])
    assert quiet.finish == "length"
    assert quiet.image is None
    assert quiet.hidden is None
    forced = shared_gill.generate(prompt=PROMPTS[1], draw=True)
    assert forced.answer_ids == quiet.answer_ids
    assert forced.image is not None
    assert forced.image.size == (64, 64)
    assert forced.drawn is not None
    assert (forced.drawn.steps, forced.drawn.guidance) == (4, 3.0)


def test_what_comes_out_can_take_part_in_gradients(shared_gill: GILL) -> None:
    out = shared_gill.generate(prompt="a dog", draw=True)
    assert out.hidden is not None
    hidden = out.hidden.clone().requires_grad_()
    (hidden * out.hidden).sum().backward()
    assert torch.equal(hidden.grad, out.hidden)  # type: ignore[arg-type]


def test_parts_are_read_when_first_used(gill: GILL) -> None:
    gill.generate(prompt="a dog", draw=False)
    assert not gill.vision.loaded
    assert not gill.diffusion.parts.loaded
    gill.generate(prompt="a dog", image=picture(0), draw=False)
    assert set(gill.vision.loaded) == {"vision"}
    assert not gill.diffusion.parts.loaded
    gill.generate(prompt="a dog", draw=True)
    assert set(gill.diffusion.parts.loaded) == {"unet", "vae", "text_tower"}
    assert not any(p.requires_grad or p.is_inference() for p in gill.parameters())
    assert all(p.dtype == torch.float32 for p in gill.parameters())
    gill.train()
    assert not any(module.training for module in gill.modules())


def test_generation_changes_no_parameter(gill: GILL) -> None:
    gill.generate(prompt="a dog", image=picture(0), draw=True)
    before = {key: value.clone() for key, value in gill.state_dict().items()}
    gill.generate(prompt=PROMPTS, seed=1, draw=True)
    after = gill.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_load_is_quick(gill_folder: Path) -> None:
    nam.load(gill_folder)
    start = time.perf_counter()
    nam.load(gill_folder)
    assert time.perf_counter() - start < 2


def test_words_alone_need_no_diffusers(gill_folder: Path) -> None:
    code = (
        "import sys, nam\n"
        "assert not {'transformers', 'diffusers', 'cv2', 'wandb'} & set(sys.modules), 'heavy import'\n"
        f"out = nam.load({str(gill_folder)!r}).generate(prompt='a dog', draw=False)\n"
        "assert 'diffusers' not in sys.modules, 'diffusers'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_samples_go_in_as_they_come_from_data(shared_gill: GILL) -> None:
    samples = [Sample(id="a", prompt="a dog", seed=4), Sample(id="b", prompt="a cat", seed=2)]
    batch = shared_gill.generate_batch(samples, draw=True, max_new_tokens=2)
    assert_same(batch[0], shared_gill.generate(prompt="a dog", seed=4, draw=True, max_new_tokens=2))
    assert batch[1].seed == 2
    assert shared_gill.generate_batch([]) == []
    assert shared_gill.generate(prompt=[]) == []
