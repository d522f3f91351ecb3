"""What the published GILL reads: prompts, pictures between words, and where an answer ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nam.errors import InputError
from nam.mllm.gill import GILL
from nam.mllm.gill_published import published_config
from nam.mllm.pictures import to_pixels
from nam.types import Sample, Span
from tests.families import picture
from tests.mllm.gill_parts import PUBLISHED_ARGS, folder, model

__all__ = ["folder", "model"]


def test_prompts_are_laid_out_as_published(model: GILL) -> None:
    def ids(words: str) -> list[int]:
        found: list[int] = model.tokenizer(words, add_special_tokens=False)["input_ids"]
        return found

    encode, seen = model.codec.encode, [-1] * 4
    caption = encode("", pictures=1)
    assert list(caption.ids) == [*seen, 2, *ids("A picture of")]
    assert (caption.prompt, caption.n_system, caption.n_picture) == ("A picture of", 0, 4)
    assert list(encode("draw a  horse").ids) == [2, *ids("draw a horse")]
    asked = encode("a dog <|image|> and a cat <|image|>\nwhat is this?\nA: ", pictures=2)
    expected = [2, *ids("a dog"), *seen, *ids("and a cat"), *seen, *ids("\nwhat is this?\nA:")]
    assert list(asked.ids) == expected
    assert asked.n_system == 1 + len(ids("a dog"))
    assert asked.n_picture == 8 + len(ids("and a cat"))
    first = encode("<|image|>what is this?", pictures=1)
    assert list(first.ids) == [*seen, 2, *ids("what is this?")]
    assert first.prompt == "what is this?"
    for prompt, pictures in (("a <|image|> b", 2), ("<|image|>", 0)):
        with pytest.raises(InputError, match=r"marks 1 pictures by .*image.*, "):
            encode(prompt, pictures=pictures)
    with pytest.raises(InputError, match="reserved tokens: </s>"):
        encode("a </s> dog")


def test_a_dialogue_with_pictures_is_read_in_its_order(model: GILL) -> None:
    shown = (picture(1, (40, 64)), picture(2, (40, 64)))
    words = ("a dog", "and a cat", "what is this?")
    (out,) = model.generate(["<|image|>".join(words)], image=[shown], draw=False, max_new_tokens=3)
    embed = model.language_model.get_input_embeddings()

    def read(text: str) -> Tensor:
        return embed(model.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"])[0]

    def see(one: np.ndarray) -> Tensor:
        kept = to_pixels(
            Image.fromarray(one),
            size=32,
            mean=model.config.image_mean,
            std=model.config.image_std,
            fit="crop",
        )
        return model.visual_tokens(kept[None])[0]

    with torch.no_grad():
        begin = embed(torch.tensor([2]))
        parts = [begin, read(words[0]), see(shown[0]), read(words[1]), see(shown[1]), read(words[2])]
        logits = model.language_model(inputs_embeds=torch.cat(parts)[None]).logits[0, -1]
        logits[[1, *model.codec.img_ids[1:]]] = -torch.inf
        replayed = model.replay([out]).hidden[0, out.spans.answer.start - 1] @ model.unembedding.T
    torch.testing.assert_close(replayed[2:-8], logits[2:-8], atol=1e-4, rtol=1e-4)
    assert out.answer_ids[0] == int(logits.argmax())
    assert out.input_pixels is not None
    assert out.input_pixels.shape == (2, 3, 32, 32)
    (swapped,) = model.generate(["<|image|>".join(words)], image=[shown[::-1]], draw=False, max_new_tokens=3)
    assert not torch.equal(swapped.input_pixels[0], out.input_pixels[0])
    beside = model.generate(
        ["<|image|>".join(words), "a dog", ""], image=[shown, None, shown[0]], draw=False, max_new_tokens=3
    )
    assert beside[0].token_ids == out.token_ids
    assert beside[2].spans.system == Span(0, 0)
    both = Sample(id="0", prompt="a dog", image=shown[0], pictures=shown)
    with pytest.raises(InputError, match="expected image or pictures, got both"):
        model.generate_batch([both])


def test_the_end_of_a_line_ends_an_answer(model: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    newline = model.tokenizer.get_vocab()["\u010a"]
    assert model.codec.end_ids == (2, newline)
    whole = model.generate("what is this?", draw=False, max_new_tokens=4)
    assert whole.answer_ids[1] != whole.answer_ids[0]
    monkeypatch.setattr(model.codec, "end_ids", (2, whole.answer_ids[1]))
    ended = model.generate("what is this?", draw=False, max_new_tokens=4)
    assert (ended.finish, ended.answer_ids) == ("stop", whole.answer_ids[:1])


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (33, 33), (500, 30)])
def test_pictures_are_cut_as_clip_cuts_them(size: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessorPil

    config = published_config(PUBLISHED_ARGS)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    expected = processor(Image.fromarray(picture(0, size)), return_tensors="pt")["pixel_values"][0]
    ours = to_pixels(
        Image.fromarray(picture(0, size)), size=24, mean=config.image_mean, std=config.image_std, fit="crop"
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
