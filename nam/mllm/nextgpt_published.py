"""NExT-GPT as it was published: a flat file of what it trains, beside Vicuna, ImageBind and Stable Diffusion.

Wu et al. 2024, "NExT-GPT: Any-to-Any Multimodal LLM"; the release 7b_tiva_v0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from nam.errors import ModelError
from nam.mllm.config import with_drawing
from nam.mllm.device_map import Device, MaxMemory
from nam.mllm.diffusion import Diffusion
from nam.mllm.gill_published import check_devices
from nam.mllm.hub import model_folder, model_root
from nam.mllm.imagebind import encoder_origin, read_encoder
from nam.mllm.nextgpt import NextGPT
from nam.mllm.nextgpt_config import NextGPTCodec, NextGPTConfig
from nam.mllm.parts import LazyParts, freeze, read_pretrained, read_tokenizer
from nam.mllm.sound import SoundDiffusion
from nam.mllm.spread import placed
from nam.mllm.tensors import dtype_named, read_torch_file
from nam.mllm.video import VideoDiffusion

#: A generator of one medium.
Generator = TypeVar("Generator", bound=Diffusion)

#: The file of a published checkpoint.
CHECKPOINT_FILE = "pytorch_model.pt"

#: How the name of its embedding ends.
EMBEDDING_NAME = "embed_tokens.weight"


def read_published_nextgpt(
    *,
    checkpoint: str | Path,
    language_model: str | Path,
    vision: str | Path,
    generator: str | Path = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    audio_generator: str | Path | None = None,
    video_generator: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dtype: str = "bfloat16",
    device: Device = "cpu",
    max_memory: MaxMemory | None = None,
    generator_device: str | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    config: NextGPTConfig | None = None,
) -> NextGPT:
    """A frozen NExT-GPT from its published checkpoint; encoder and generator are read when first used.

    Args:
        checkpoint: Folder with `pytorch_model.pt`.
        language_model: Folder or hub id of the LLaMA that it was trained on.
        vision: `imagebind_huge.pth`, or a folder or hub id of a CLIP tower with an output of the same width.
        generator: Folder or hub id of a Stable Diffusion 1.x pipeline.
        audio_generator: Folder or hub id of an AudioLDM pipeline; None: no sounds are announced.
        video_generator: Folder or hub id of a text-to-video pipeline of diffusers; None: no videos are.
        tokenizer: Folder or hub id of LLaMA's tokenizer; None for the language model's.
        dtype: Precision of every part, whatever the files hold.
        device: Where every part goes; the layers of the language model may be spread (`nam.mllm.spread`).
        max_memory: What the language model may take of each card, with `device="auto"`.
        generator_device: Where the generators stay instead, whatever happens to the rest.
        sampler, steps, guidance: Of what is drawn; None for the generator's sampler, 50 steps, 7.5.
        config: Other sizes than the published ones.

    Raises:
        ModelError: a part is missing, damaged, of other sizes, or does not fit the checkpoint.
        ConfigError: an unknown dtype, device or steps.
    """
    from transformers import AutoModelForCausalLM

    precision = dtype_named(dtype)
    check_devices(device, max_memory, generator_device)
    sizes = with_drawing(config or NextGPTConfig(), sampler=sampler, steps=steps, guidance=guidance)
    path = Path(checkpoint).expanduser() / CHECKPOINT_FILE
    state = read_checkpoint(path)  # before the large parts are read
    root = model_root(language_model)
    codec = NextGPTCodec(read_tokenizer(root if tokenizer is None else model_root(tokenizer)), sizes)
    _check_vocabulary(codec, state, path)

    def read_generator(kind: type[Generator], source: str | Path) -> Generator:
        return kind.from_folder(sizes, model_folder(source), device=generator_device)

    model = NextGPT(
        name="nextgpt",
        config=sizes,
        language_model=read_pretrained(AutoModelForCausalLM, root, precision, torch_files=True),
        codec=codec,
        vision=LazyParts(
            {"vision": lambda kind: read_encoder(vision, sizes.vision_dim, kind)},
            origins={"vision": encoder_origin(vision)},
        ),
        diffusion=read_generator(Diffusion, generator),
        audio=None if audio_generator is None else read_generator(SoundDiffusion, audio_generator),
        video=None if video_generator is None else read_generator(VideoDiffusion, video_generator),
    )
    try:
        model.load_published(state)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    freeze(placed(model, device=device, max_memory=max_memory, dtype=precision))
    return model


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint, by their names.

    Raises:
        ModelError: the file is missing, damaged, or holds something else.
    """
    saved = read_torch_file(path)
    if not isinstance(saved, Mapping) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise ModelError(f"{path}: expected tensors by their names, and nothing else")
    return dict(saved)


def _check_vocabulary(codec: NextGPTCodec, state: Mapping[str, Tensor], path: Path) -> None:
    """With another tokenizer the signal tokens would have other ids than in training."""
    rows = next((len(value) for key, value in state.items() if key.endswith(EMBEDDING_NAME)), None)
    if rows is not None and rows != len(codec.tokenizer):
        raise ModelError(
            f"{path} knows {rows} tokens, the tokenizer makes {len(codec.tokenizer)} with the signal tokens: "
            "it is not the one that the checkpoint was trained with; set mllm.tokenizer"
        )
