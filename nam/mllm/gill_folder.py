"""GILL models on disk.

A folder holds `config.json`, `language_model/` (with tokenizer), `clip/` (with tokenizer), `unet/`, `vae/`,
`scheduler/`, all in the layout of `save_pretrained`, and `gill/model.safetensors`, what GILL itself trains.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nam.errors import ConfigError, ModelError
from nam.folders import weights_folder
from nam.mllm.config import GillConfig, with_drawing
from nam.mllm.device_map import Device
from nam.mllm.diffusion import Diffusion
from nam.mllm.gill import GILL
from nam.mllm.parts import (
    LazyParts,
    freeze,
    read_pretrained,
    read_tokenizer,
    require_weights,
)
from nam.mllm.prompts import PromptCodec
from nam.mllm.spread import placed
from nam.mllm.tensors import dtype_named, require_file

#: Where GILL's own weights are, inside a model's folder.
GLUE_FILE = Path("gill") / "model.safetensors"


def read_gill(
    *,
    folder: str | Path,
    dtype: str = "float32",
    device: Device = "cpu",
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    glue: Literal["load", "new"] = "load",
    config: GillConfig | None = None,
) -> GILL:
    """A frozen GILL from its folder; vision tower and picture generator are read when first used.

    Args:
        folder: A path, or the name of a folder that the package ships.
        dtype: Precision of every part, whatever the files hold.
        device: Where every part goes; the layers of the language model may be spread (`nam.mllm.spread`).
        sampler, steps, guidance: Instead of the folder's own; None keeps them.
        glue: "load" reads `gill/model.safetensors`; "new" starts with random visual tokens, [IMG] rows and
            mapper, for training them.
        config: Instead of the folder's own, which then need not hold one.

    Raises:
        ModelError: the folder or a part is missing, damaged or of other sizes.
        ConfigError: an unknown dtype, device or glue, or steps that are no integer of at least 1.
    """
    from transformers import AutoModelForCausalLM

    precision = dtype_named(dtype)
    if glue not in ("load", "new"):
        raise ConfigError(f'mllm.glue must be "load" or "new", got {glue!r}')
    try:
        path = weights_folder(folder)
    except ModelError as error:
        raise ModelError(f"{error}; set mllm.folder") from error
    config = with_drawing(config or GillConfig.load(path), sampler=sampler, steps=steps, guidance=guidance)
    if glue == "load":
        require_file(path / GLUE_FILE)  # before the large parts are read
    language_model = read_pretrained(AutoModelForCausalLM, path / "language_model", precision)
    model = GILL(
        name=path.name,
        config=config,
        language_model=language_model,
        codec=PromptCodec(read_tokenizer(path / "language_model"), config),
        vision=LazyParts(
            {"vision": partial(read_vision, path / "clip", config.vision_dim)},
            origins={"vision": path / "clip"},
        ),
        diffusion=Diffusion.from_folder(config, path),
    )
    if glue == "load":
        load_glue(model, path / GLUE_FILE)
    freeze(placed(model, device=device, dtype=precision))
    return model


def write_gill(model: GILL, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write a GILL's config and its own weights (`gill/model.safetensors`) into a folder.

    The other parts are written by their own `save_pretrained`.

    Raises:
        ModelError: a weight does not fit the precision.
    """
    from safetensors.torch import save_file

    state = {key: value.to("cpu", dtype).contiguous() for key, value in model.gill_state_dict().items()}
    for key, value in state.items():
        if not value.isfinite().all():
            raise ModelError(f"{key} is not finite in {dtype}")
    model.config.save(folder)
    (folder / GLUE_FILE).parent.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / GLUE_FILE, metadata={"format": "pt"})


def load_glue(model: GILL, path: Path) -> None:
    """Read what GILL itself trains from a safetensors file into a model.

    Raises:
        ModelError: the file is missing, damaged or does not fit.
    """
    require_file(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    try:
        model.load_gill_state(state)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def read_vision(folder: Path, width: int, dtype: torch.dtype) -> nn.Module:
    """CLIP's vision tower, of that width.

    Raises:
        ModelError: it is missing, damaged or of another width.
    """
    from transformers import CLIPVisionModel

    require_weights(folder)
    vision: Any = read_pretrained(CLIPVisionModel, folder, dtype)
    found = vision.config.hidden_size
    if found != width:
        raise ModelError(f"{folder}: the vision tower is {found} wide, the model's config says {width}")
    tower: nn.Module = vision
    return tower
