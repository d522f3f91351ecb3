"""GILL with random weights at its published sizes, or tiny: made where it is used, never read from a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nam.mllm.config import with_drawing
from nam.mllm.diffusion import Diffusion
from nam.mllm.gill import GILL
from nam.mllm.gill_published import published_config
from nam.mllm.parts import LazyParts, freeze, read_tokenizer
from nam.mllm.prompts import PromptCodec
from nam.mllm.tiny_gill import ARGS, OPT_SIZES, VISION_SIZES, write_opt_tokenizer
from nam.world.tokenizer import TEXT_END, TEXT_START, build_tokenizer
from nam.world.vocabulary import vocabulary

#: The noise schedule of Stable Diffusion 1.5.
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class FullShape:
    """Sizes of every part; what is not given is the library's default.

    Attributes:
        name: What the table calls it.
        args: What `model_args.json` would say.
        opt, vision, text, unet, vae: Configs of the parts, by the names of their classes' arguments.
        tokens: Of the language model's tokenizer, before GILL's own; None for as few as there are.
        steps: Denoising steps of a picture.
    """

    name: str
    args: Mapping[str, Any]
    opt: Mapping[str, Any]
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    tokens: int | None = None
    steps: int = 50


_BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}

#: OPT-6.7B, CLIP ViT-L/14, Stable Diffusion 1.5 and the mapper as GILL was published.
GILL_SHAPE = FullShape(
    name="OPT-6.7B, CLIP-L and Stable Diffusion 1.5",
    args={
        **ARGS,
        "gen_emb_dim": 768,
        "ret_emb_dim": 256,
        "mapper_dim": 512,
        "mapper_heads": 4,
        "mapper_layers": 4,
        "vision_dim": 1024,
        "image_size": 224,
    },
    opt={
        "vocab_size": 50_272,
        "hidden_size": 4096,
        "word_embed_proj_dim": 4096,
        "ffn_dim": 16_384,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    vision={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    },
    text={
        "vocab_size": 49_408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    unet={"sample_size": 64, "cross_attention_dim": 768},
    vae={**_BLOCKS, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512},
    tokens=50_265,
)

#: A few dozen dimensions of the same classes.
TINY_SHAPE = FullShape(
    name="tiny",
    args=ARGS,
    opt={**OPT_SIZES, "vocab_size": 2000},
    vision=VISION_SIZES,
    text={
        "vocab_size": 2000,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    unet={
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
    vae={**_BLOCKS, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "sample_size": 64},
    steps=2,
)

SHAPES = {"gill": GILL_SHAPE, "tiny": TINY_SHAPE}


@dataclass(frozen=True, eq=False)
class Making:
    """Where parts are made, and of which precision; the host holds none of their weights.

    Attributes:
        device: Where.
        dtype: Of every parameter.
        seed: Of the weights.
    """

    device: torch.device
    dtype: torch.dtype
    seed: int = 0

    @contextmanager
    def here(self) -> Iterator[None]:
        """What is made inside is made there."""
        before = torch.get_default_dtype()
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus), torch.device(self.device):
            torch.manual_seed(self.seed)
            torch.set_default_dtype(self.dtype)
            try:
                yield
            finally:
                torch.set_default_dtype(before)

    def part(self, make: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
        """A part, as `LazyParts` asks for it."""
        with self.here():
            return make().to(dtype)


def build(shape: FullShape, folder: Path, *, device: str, dtype: torch.dtype) -> GILL:
    """A frozen random GILL of this shape.

    Args:
        shape: Its sizes.
        folder: For its tokenizers and noise schedule; must stay as long as the model.
        device: Where it is made.
        dtype: Precision of every part.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPVisionConfig,
        CLIPVisionModel,
        OPTConfig,
        OPTForCausalLM,
    )

    making = Making(torch.device(device), dtype)
    config = with_drawing(published_config(shape.args), sampler=None, steps=shape.steps, guidance=None)
    write_opt_tokenizer(folder / "opt", vocabulary(), size=shape.tokens)
    scheduler: Any = PNDMScheduler(**SCHEDULE)
    scheduler.save_pretrained(folder / "scheduler")
    captions: Any = build_tokenizer()
    captions.save_pretrained(folder / (config.text_tokenizer or config.text_tower))
    start, end = captions.convert_tokens_to_ids([TEXT_START, TEXT_END])
    text = CLIPTextConfig(
        **shape.text, bos_token_id=start, eos_token_id=end, pad_token_id=captions.pad_token_id
    )
    makers: dict[str, Callable[[], Any]] = {
        "vision": lambda: CLIPVisionModel(CLIPVisionConfig(**shape.vision)),
        "unet": lambda: UNet2DConditionModel(**shape.unet),
        "vae": lambda: AutoencoderKL(latent_channels=4, **shape.vae),
        "text_tower": lambda: CLIPTextModel(text),
    }
    readers = {name: partial(making.part, make) for name, make in makers.items()}
    vision = LazyParts({"vision": readers.pop("vision")})
    with making.here():
        model = GILL(
            name="gill_random",
            config=config,
            language_model=OPTForCausalLM(OPTConfig(**shape.opt)),
            codec=PromptCodec(read_tokenizer(folder / "opt"), config),
            vision=vision,
            diffusion=Diffusion(config, folder, readers),
        )
    freeze(model.to(device=device, dtype=dtype))
    return model
