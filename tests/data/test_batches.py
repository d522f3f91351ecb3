"""Batches: a function of seed and number, aligned, without a picture's facts getting mixed up."""

import lightning as L
import numpy as np
import pytest
import torch

from nam.data.batches import NumberedBatches, PartData
from nam.data.scenes import CaptionedPictures, Draw, LabelledPictures, Pictures, SegmentedPictures
from nam.data.texts import Texts
from nam.types import PICTURE_ID
from nam.world.corpus import Text
from nam.world.labels import slots
from nam.world.language import parse

DRAW = Draw({"shipped": 1.0})


def test_a_batch_follows_from_its_number_alone() -> None:
    first = NumberedBatches(Pictures(DRAW), size=3, count=10, split="train", seed=(0, 0))
    resumed = NumberedBatches(Pictures(DRAW), size=3, count=5, split="train", seed=(0, 0), start=5)
    torch.testing.assert_close(first[7]["pixels"], resumed[2]["pixels"], rtol=0, atol=0)
    assert not torch.equal(first[0]["pixels"], first[1]["pixels"])
    with pytest.raises(IndexError):
        first[10]


def test_early_batches_are_drawn_by_the_early_maker() -> None:
    calm, free = Pictures(Draw({"calm": 1.0})), Pictures(Draw({"free": 1.0}))
    mixed = NumberedBatches(free, size=2, count=4, split="train", seed=(0,), early=calm, early_batches=2)
    for number, make in enumerate((calm, calm, free, free)):
        alone = NumberedBatches(make, size=2, count=4, split="train", seed=(0,))
        torch.testing.assert_close(mixed[number]["pixels"], alone[number]["pixels"], rtol=0, atol=0)


def test_ranks_and_splits_draw_different_batches() -> None:
    batches = [
        NumberedBatches(Pictures(DRAW), size=2, count=1, split="train", seed=seed)[0]["pixels"]
        for seed in ((0, 0), (0, 1), (0, 0, 1))
    ]
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_data_module_counts_on_from_a_resumed_step() -> None:
    data = PartData(make=Pictures(DRAW), batch_size=2, val_batches=0)
    data.trainer = L.Trainer(max_steps=7, logger=False, enable_checkpointing=False, accelerator="cpu")
    loader = data.train_dataloader()
    assert len(loader) == 7
    assert data.val_dataloader() == []
    data.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 4
    assert data.train_dataloader().dataset.start == 4  # type: ignore[attr-defined]


def test_captions_say_what_the_labels_say() -> None:
    make = CaptionedPictures(DRAW, canonical=0.5, omit=0.5)
    batch = make(np.random.default_rng(0), 64, "val")
    tokenizer = Texts().tokenizer
    for ids, said, seen in zip(
        batch["input_ids"], batch["caption_slots"], batch["picture_slots"], strict=True
    ):
        facts = parse(tokenizer.decode(ids, skip_special_tokens=True))
        assert slots(facts).tolist() == said.tolist()
        stated = said >= 0
        assert torch.equal(said[stated], seen[stated])
    assert (batch["caption_slots"] < 0).any()  # something was left out


def test_labels_fit_the_pictures_after_augmentation() -> None:
    rng, again = np.random.default_rng(4), np.random.default_rng(4)
    plain = LabelledPictures(DRAW)(rng, 8, "train")
    noisy = LabelledPictures(DRAW, noise=0.1, blur=1.0, shade=0.2)(again, 8, "train")
    assert torch.equal(plain["place"], noisy["place"])
    assert torch.equal(plain["presence"], noisy["presence"])
    assert not torch.equal(plain["pixels"], noisy["pixels"])
    assert noisy["pixels"].abs().max() <= 1


def test_segmentation_names_every_pixel() -> None:
    batch = SegmentedPictures(DRAW)(np.random.default_rng(0), 4, "train")
    assert batch["classes"].shape == (4, 64, 64)
    assert batch["classes"].min() >= 0
    assert batch["classes"].max() < 19


def test_texts_mark_the_answer_and_its_end() -> None:
    make = Texts()
    batch = make.encode(
        [Text("draw a cat .", "here is a cat :", "draw"), Text("", "a cat is an animal .", "fact")],
        np.random.default_rng(0),
    )
    ids, answer = batch["input_ids"], batch["answer_mask"]
    decoded = [make.tokenizer.decode(row[mask]) for row, mask in zip(ids, answer, strict=True)]
    assert decoded == ["here is a cat : </s>", "a cat is an animal . </s>"]
    assert batch["prompted"].tolist() == [True, False]
    assert batch["attention_mask"].sum(1).tolist() == [11, 8]


def test_texts_of_a_batch_are_of_like_length() -> None:
    rng = np.random.default_rng(0)
    shares = [Texts()(rng, 32, "train")["attention_mask"].float().mean().item() for _ in range(8)]
    assert np.mean(shares) > 0.75  # in mixed batches half of the places are padding


def test_picture_id_is_no_token() -> None:
    assert PICTURE_ID < 0
