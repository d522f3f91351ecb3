"""Image-text-to-text and causal models of transformers, by hub id or from their folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nam.errors import ModelError, first_line
from nam.mllm.chat import TYPE_NAMES, Chat
from nam.mllm.device_map import Device, MaxMemory, check_device
from nam.mllm.hub import HubFolder
from nam.mllm.online import hub_answers, unreachable
from nam.mllm.parts import freeze, quiet_hub, read_pretrained, read_tokenizer
from nam.mllm.probe import probe_sites
from nam.mllm.processors import read_processor
from nam.mllm.spread import placed
from nam.mllm.tensors import dtype_named
from nam.mllm.vlm import VLM

Model = TypeVar("Model", bound=VLM)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a model of transformers is made of: its name, its config, the model itself and its `Chat`."""

    name: str
    config: Any
    language_model: Any
    chat: Chat


def read_vlm(
    *,
    id: str | Path,
    revision: str | None = None,
    dtype: str = "bfloat16",
    device: Device = "cpu",
    max_memory: MaxMemory | None = None,
    caption_prompt: str = "Describe this picture.",
) -> VLM:
    """A frozen model of transformers, its neurons found and probed.

    Args:
        id: Hub id such as "llava-hf/llava-1.5-7b-hf", or a folder in the layout of `save_pretrained`.
        revision: Branch, tag or commit of a hub id; None for its main branch.
        dtype: Precision of every part, whatever the files hold.
        device: Where it goes; the layers of its language model may be spread (`nam.mllm.spread`).
        max_memory: What the language model may take of each card, with `device="auto"`.
        caption_prompt: What is asked about a picture that comes without words.

    Raises:
        ModelError: it is missing, damaged, of a kind that is not supported, or its processor cannot be made.
        ConfigError: an unknown dtype or device.
    """
    check_device(device, max_memory=max_memory)
    parts = read_parts(id, revision=revision, dtype=dtype, caption_prompt=caption_prompt)
    model = VLM(name=parts.name, language_model=parts.language_model, chat=parts.chat)
    return started(model, device, max_memory)


def read_parts(
    id: str | Path,
    *,
    revision: str | None,
    dtype: str,
    caption_prompt: str,
    kinds: Sequence[str] = (),
    chat: type[Chat] = Chat,
    read_elsewhere: tuple[str, ...] = (),
) -> Parts:
    """The parts of a model, by its hub id or from its folder; other arguments and errors as in `read_vlm`.

    Args:
        kinds: The `model_type`s that are expected; none for any.
        chat: What makes its `Chat`.
        read_elsewhere: As in `nam.mllm.parts.read_pretrained`.
    """
    import transformers

    precision = dtype_named(dtype)
    folder = Path(id).expanduser()
    local = folder.is_dir()
    source: str | Path = folder if local else str(id)
    alone = local or not hub_answers()
    where: dict[str, Any] = {"revision": None if local else revision, "local_files_only": alone}
    config = _read_config(str(source), where)
    if kinds and config.model_type not in kinds:
        raise ModelError(f"mllm.id={id}: expected a {' or '.join(kinds)} model, got {config.model_type}")
    pictures = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if not pictures and type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = config.model_type
        raise ModelError(f"mllm.id={id}: a {kind} model is neither an image-text-to-text nor a causal one")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"mllm.id={id}: encoder-decoder models such as {config.model_type} are not supported"
        )
    if not pictures and not local:
        source = HubFolder(str(id), revision).root()  # older ones have no safetensors
    tokenizer = read_tokenizer(source, revision=revision)
    processor = None
    if pictures:
        revision = where["revision"]
        processor = read_processor(
            str(source), config=config, tokenizer=tokenizer, revision=revision, local=alone
        )
    auto = transformers.AutoModelForImageTextToText if pictures else transformers.AutoModelForCausalLM
    language_model: Any = read_pretrained(
        auto,
        source,
        precision,
        revision=revision,
        torch_files=not pictures,
        read_elsewhere=read_elsewhere,
    )
    talk = chat(
        tokenizer=tokenizer,
        processor=processor,
        config=config,
        caption_prompt=caption_prompt,
        type_names=[name for name in TYPE_NAMES if pictures and _takes(language_model, name)],
    )
    return Parts(folder.name if local else str(id), config, language_model, talk)


def started(model: Model, device: Device, max_memory: MaxMemory | None = None) -> Model:
    """The model on its device or devices, frozen, its neurons found and probed.

    Raises:
        ModelError: its neurons cannot be found.
        ConfigError: a device cannot be used, or the layers do not fit.
    """
    freeze(placed(model, device=device, max_memory=max_memory))
    probe_sites(model.language_model, model.ffn_sites)
    return model


def _takes(language_model: Any, name: str) -> bool:
    import inspect

    return name in inspect.signature(language_model.forward).parameters


def _read_config(source: str, where: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        with quiet_hub():
            return AutoConfig.from_pretrained(source, **where)
    except Exception as error:  # a wrong id and a damaged file surface as many types
        if where["local_files_only"] and not Path(source).is_dir():
            raise ModelError(f"mllm.id: {unreachable(source)}") from error
        raise ModelError(
            f"mllm.id={source} is neither a folder nor a hub id that can be read: {first_line(error)}"
        ) from error
