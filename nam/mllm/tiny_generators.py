"""Tiny RANDOM generators of sounds and videos, of diffusers' own classes and as the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

#: Tones of a tiny spectrogram.
TONES = 16


def write_sound_generator(folder: Path, *, width: int) -> None:
    """Write a tiny AudioLDM whose conditioning is so wide: 1,600 values a second, 160 columns a second."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import (
        ClapTextConfig,
        ClapTextModelWithProjection,
        RobertaTokenizer,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
    )

    unet: Any = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(8, 16),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=width,
        class_embeddings_concat=True,
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae: Any = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    for model, name in ((unet, "unet"), (vae, "vae")):
        nn.Module.half(model).save_pretrained(folder / name)
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=TONES,
            sampling_rate=1_600,
            upsample_initial_channel=8,
            upsample_rates=[5, 2],
            upsample_kernel_sizes=[10, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            normalize_before=False,
        )
    )
    with torch.no_grad():
        for weight in vocoder.parameters():
            weight.mul_(10.0)  # what it is made with is too quiet to be heard in half precision
    vocoder.half().save_pretrained(folder / "vocoder")
    scheduler: Any = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False
    )
    scheduler.save_pretrained(folder / "scheduler")
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    tokenizer: Any = RobertaTokenizer(vocab=special, merges=[])
    tokenizer.save_pretrained(folder / "tokenizer")
    config = ClapTextConfig(
        vocab_size=len(special),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=width,
        max_position_embeddings=16,
    )
    ClapTextModelWithProjection(config).half().save_pretrained(folder / "text_encoder")


def write_video_generator(folder: Path, *, width: int) -> None:
    """Write a tiny text-to-video pipeline whose conditioning is so wide."""
    from diffusers import UNet3DConditionModel

    from nam.mllm.tiny_gill import write_generator

    write_generator(folder, width=width)
    unet: Any = UNet3DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    nn.Module.half(unet).save_pretrained(folder / "unet")
