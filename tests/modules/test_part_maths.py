"""The pure functions behind the trainings, against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

from nam.modules.autoencoder import initialise
from nam.modules.clip import contrastive_loss, facts_loss, patch_shares
from nam.modules.judge import JudgePart
from nam.modules.part import save_half
from nam.modules.segmenter import mean_iou
from nam.world.labels import IGNORE, SLOTS


def test_rate_rises_stays_and_falls() -> None:
    part = JudgePart(
        model={"embedding_size": 8, "hidden_sizes": [8], "depths": [1]}, lr=1.0, warmup=10, decay=0.5
    )
    assert part.rate(0, 100) == pytest.approx(0.1)
    assert part.rate(9, 100) == part.rate(49, 100) == 1.0
    assert part.rate(75, 100) == pytest.approx(0.5)
    assert part.rate(100, 100) == 0.0


def test_contrastive_loss_of_orthogonal_pairs() -> None:
    pictures = captions = torch.eye(3)
    facts = torch.arange(3)[:, None]
    expected = -math.log(math.e / (math.e + 2))
    found = contrastive_loss(pictures, captions, scale=torch.tensor(1.0), facts=facts)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_contrastive_loss_ignores_pairs_that_say_the_same() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    facts = torch.tensor([[1, 2], [1, 2], [3, 4]])
    found = contrastive_loss(embeddings, embeddings, scale=torch.tensor(1.0), facts=facts)
    same = -math.log(math.e / (math.e + 1))  # rows 0 and 1 see only row 2 as a negative
    other = -math.log(math.e / (math.e + 2))
    assert found.item() == pytest.approx((2 * same + other) / 3, abs=1e-6)


def test_facts_loss_counts_only_what_is_stated() -> None:
    widths = [n for _, n in SLOTS]
    logits = torch.zeros(2, sum(widths))
    logits[0, 3] = 50.0  # noun1 of the first sample: class 3
    labels = torch.full((2, len(SLOTS)), IGNORE)
    labels[0, 0], labels[1, 0] = 3, 5
    loss, right = facts_loss(logits, labels)
    assert right["noun1"].item() == 0.5
    assert right["place"].item() == 0.0
    # one of two right for certain, the other uniform; the four other slots state nothing
    assert loss.item() == pytest.approx(math.log(widths[0]) / 2 / len(SLOTS), abs=1e-5)


def test_patch_shares_are_the_class_shares_of_each_patch() -> None:
    classes = torch.zeros(1, 4, 4, dtype=torch.long)
    classes[0, :2, :1] = 7  # half of the first 2x2 patch
    shares = patch_shares(classes, patch=2)
    assert shares.shape == (1, 19, 4)
    assert shares[0, 7].tolist() == [0.5, 0.0, 0.0, 0.0]
    assert shares[0, 0].tolist() == [0.5, 1.0, 1.0, 1.0]


def test_mean_iou_by_hand() -> None:
    true = torch.tensor([[[0, 0, 1, 1]]])
    predicted = torch.tensor([[[0, 1, 1, 1]]])
    # class 0: 1 of 2, class 1: 2 of 3; class 2 occurs in neither and does not count
    assert mean_iou(predicted, true, classes=3).item() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_initialisation_keeps_the_signal_alive() -> None:
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    widths = {"encoder_block_out_channels": (16, 16, 16), "decoder_block_out_channels": (16, 16, 16)}
    blocks = {"num_encoder_blocks": (1, 1, 2), "num_decoder_blocks": (2, 2, 1)}
    vae = AutoencoderTiny(**widths, **blocks, latent_channels=4)
    x = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(x).latents.std(dim=0).mean()
        initialise(vae)
        after = vae.encode(x).latents.std(dim=0).mean()
    assert after > 5 * before


def test_half_precision_overflow_is_refused(tmp_path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    nn.init.constant_(model.classifier[1].bias, 1e6)
    with pytest.raises(ValueError, match=r"not finite in half precision.*classifier\.1\.bias"):
        save_half(model, tmp_path)
    assert model.classifier[1].bias.dtype == torch.float32


def test_export_does_not_tell_where_weights_came_from(tmp_path) -> None:
    from diffusers import AutoencoderTiny

    widths = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    save_half(AutoencoderTiny(**widths, **blocks), tmp_path / "first")
    again = AutoencoderTiny.from_pretrained(tmp_path / "first", low_cpu_mem_usage=False)
    save_half(again, tmp_path / "second")
    assert str(tmp_path) not in (tmp_path / "second" / "config.json").read_text()
