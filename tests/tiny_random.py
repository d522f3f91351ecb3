"""A tiny RANDOM gill folder: the real classes, a few dozen dimensions, in the layouts that are shipped.

Its answers mean nothing, but every path through the code is the shipped model's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from nam.mllm.config import GillConfig
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill, write_gill
from nam.world.tokenizer import TEXT_END, TEXT_START, build_tokenizer

CONFIG = GillConfig(
    vision_dim=16,
    n_visual_tokens=5,
    num_clip_tokens=16,
    gen_emb_dim=16,
    mapper_dim=16,
    mapper_layers=1,
    mapper_heads=2,
    latent_mean=(-1.0, -0.9, 0.2, 0.4),
    latent_std=(0.5, 0.6, 0.7, 0.8),
    steps=4,
    guidance=3.0,
)


def write_tiny_gill(folder: Path, *, seed: int = 0) -> Path:
    """Write the folder and return it; half precision, as shipped."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _write_language_model(folder / "language_model")
        _write_clip(folder / "clip")
        _write_diffusion(folder)
        CONFIG.save(folder)
        model = read_gill(folder=folder, glue="new")
        _make_pictures_likely(model)
        write_gill(model, folder)
    return folder


def _write_language_model(folder: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    tokenizer = build_tokenizer()
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        init_std=0.3,
    )
    OPTForCausalLM(config).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    tokenizer = build_tokenizer()
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in (TEXT_START, TEXT_END))
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": 64, "patch_size": 16}
    config = CLIPConfig(text_config={**tower, **text}, vision_config={**tower, **vision}, projection_dim=16)
    CLIPModel(config).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_diffusion(folder: Path) -> None:
    from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, UNet2DConditionModel

    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
    )
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
    )
    for model, name in ((vae, "vae"), (unet, "unet")):
        nn.Module.half(model).save_pretrained(folder / name)  # the classes' own half() warns without cause
    scheduler.save_pretrained(folder / "scheduler")


def _make_pictures_likely(model: GILL) -> None:
    """Make [IMG0] likely after some tokens, and pictures depend on what was asked.

    A random LM never says [IMG0]; and a random mapper gives the same conditioning whatever it reads.
    """
    with torch.no_grad():
        embedding = model.language_model.get_input_embeddings().weight
        embedding[model.codec.img_ids[0]] *= 1.5
        for module in model.mapper.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(2.0)
