"""Tiny RANDOM judge and segmenter, of the classes and in the layouts that are shipped."""

from __future__ import annotations

from pathlib import Path

import torch

from nam.world.scene import NOUNS, PLACES


def write_judge(folder: Path, *, labels: int = 13 * 9 + 6, seed: int = 0) -> Path:
    """Write `judge/` into a weights folder and return that folder."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=3,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_labels=labels,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ResNetForImageClassification(config)
        # The statistics of a judge that has seen something, and verdicts that differ between pictures.
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.001, 0.1)
        model.half().save_pretrained(folder / "judge")
    return folder


def write_segmenter(folder: Path, *, seed: int = 0) -> Path:
    """Write `segmenter/` into a weights folder and return that folder."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_channels=3,
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[8, 16],
        patch_sizes=[5, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate((*NOUNS, *PLACES))),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        SegformerForSemanticSegmentation(config).half().save_pretrained(folder / "segmenter")
    return folder
