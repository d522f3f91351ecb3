"""The models behind measures: found by name, read without pickle, named in every column that they fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nam.errors import ConfigError, ModelError
from nam.folders import weights_folder
from nam.mllm.hub import model_root
from nam.mllm.online import hub_answers
from nam.mllm.parts import freeze, quiet_hub, read_pretrained


@dataclass(frozen=True)
class Checkpoint:
    """Where a measure's model comes from.

    Attributes:
        name: What tables call it: a hub id, or the name of the folder that was given.
        source: The hub id, or the folder that holds the model.
    """

    name: str
    source: str | Path

    @property
    def local(self) -> bool:
        """Whether the hub is not asked for its files: it is a folder, or the hub does not answer."""
        return isinstance(self.source, Path) or not hub_answers()


def find_checkpoint(checkpoint: str | Path, *, part: str | None = None) -> Checkpoint:
    """The checkpoint of a hub id ("openai/clip-vit-large-patch14"), of a folder, or of a name that the
    package ships ("tiny_gill").

    Args:
        checkpoint: The id, path or name.
        part: Where the model is in a folder that holds a whole MLLM.

    Raises:
        ModelError: neither a folder nor an id.
    """
    try:
        folder = weights_folder(checkpoint)
    except ModelError:
        if (
            isinstance(checkpoint, str)
            and checkpoint.count("/") == 1
            and not checkpoint.startswith((".", "~", "/"))
        ):
            return Checkpoint(checkpoint, checkpoint)
        raise
    name = folder.resolve().name
    return Checkpoint(name, folder / part if part and (folder / part).is_dir() else folder)


def read_model(
    model_class: Any, checkpoint: Checkpoint, *, device: str = "cpu", unused: Sequence[str] = ()
) -> Any:
    """The frozen float32 model of a checkpoint; of an id, it is downloaded once.

    Args:
        model_class: A transformers class with `from_pretrained`.
        checkpoint: Where it is.
        device: Where it goes.
        unused: Parts that the measure does not read and the checkpoint may lack.

    Raises:
        ModelError: missing, damaged or incomplete.
        ConfigError: there is no such device.
    """
    folder = model_root(checkpoint.source)
    model = read_pretrained(model_class, folder, torch.float32, torch_files=True, unused=tuple(unused))
    try:
        return freeze(model.to(device))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={device!r} cannot be used: {error}") from error


def read_checkpoint_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer beside a checkpoint's model.

    Raises:
        ModelError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_hub():
            return AutoTokenizer.from_pretrained(checkpoint.source, local_files_only=checkpoint.local)
    except Exception as error:  # as above
        raise ModelError(f"cannot read the tokenizer of {checkpoint.source}: {error}") from error


def column(measure: str, checkpoint: str, **protocol: object) -> str:
    """The name of a model-based measure's column; settings that are None or False are left out.

    >>> column("clipscore", "tiny_gill")
    'clipscore[tiny_gill]'
    >>> column("bertscore", "roberta-large", layer=17, idf=True)
    'bertscore[roberta-large,layer=17,idf]'
    """
    said = [
        name if value is True else f"{name}={value}"
        for name, value in protocol.items()
        if value is not None and value is not False
    ]
    return f"{measure}[{','.join((checkpoint, *said))}]"
