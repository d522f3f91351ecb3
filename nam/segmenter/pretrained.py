"""What the segmenters of transformers share: a hub id or folder, read once, and batches of one size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nam.checks import whole
from nam.errors import ConfigError, ModelError, nearest
from nam.mllm.hub import HubFolder, model_root
from nam.mllm.parts import freeze, quiet_hub, read_pretrained, read_tokenizer
from nam.mllm.tensors import DTYPES
from nam.segmenter.base import GivenMasks, Mask, Segmenter
from nam.segmenter.cleanup import clean
from nam.types import Concept


@dataclass(frozen=True, kw_only=True, eq=False)
class PretrainedSegmenter(Segmenter):
    """A segmentation model of transformers. A subclass says which class it is and gives `locate`.

    Attributes:
        id: A hub id, or a folder in the layout of `save_pretrained`.
        revision: Of a hub id; None for its main branch.
        threshold: How sure the model has to be, from 0 to 1.
        speck: Share of the picture below which a separate part of a mask is dropped, and a hole filled.
        batch: Pictures of one size that are read together.
        device: Where the model runs.
        dtype: Precision of its weights.

    Raises:
        ConfigError: a share outside 0 to 1, a batch below 1, or an unknown precision.
    """

    id: str
    revision: str | None = None
    threshold: float = 0.5
    speck: float = 0.0005
    batch: int = 4
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("threshold", "speck"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"segmenter.{name} is a share, from 0 to below 1, got {getattr(self, name)}"
                )
        whole("segmenter.batch", self.batch, least=1, error=ConfigError)
        if self.dtype not in DTYPES:
            raise ConfigError(f"segmenter.dtype={self.dtype!r} is unknown ({nearest(self.dtype, DTYPES)})")

    @property
    @abstractmethod
    def model_class(self) -> Any:
        """The transformers class that is read."""

    @abstractmethod
    def locate(self, images: Sequence[Image.Image], concepts: Sequence[Concept]) -> list[Mask]:
        """`find` for RGB pictures of one size, a batch of them, under inference mode."""

    @property
    def origin(self) -> Path | str:
        path = Path(self.id).expanduser()
        return path if path.is_dir() else f"{self.id}@{self.revision or 'main'}"

    @cached_property
    def root(self) -> Path:
        """The model's files, fetched if they are on the hub.

        Raises:
            ModelError: they cannot be.
        """
        return HubFolder(self.id, self.revision).root() if self.revision else model_root(self.id)

    @cached_property
    def model(self) -> Any:
        """The network, frozen, read when first used.

        Raises:
            ModelError: the folder holds none, or one of another class.
            ConfigError: the device cannot be used.
        """
        with torch.inference_mode(False):  # weights made under it could be used nowhere else
            model: Any = read_pretrained(self.model_class, self.root, DTYPES[self.dtype], torch_files=True)
        try:
            return freeze(model).to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"segmenter.device={self.device!r} cannot be used: {error}") from error

    @cached_property
    def processor(self) -> Any:
        """The image processor, without torchvision.

        Raises:
            ModelError: the folder holds none.
        """
        from transformers import AutoImageProcessor

        return self.read_processor(AutoImageProcessor, backend="pil")

    @cached_property
    def tokenizer(self) -> Any:
        """Of models that read words.

        Raises:
            ModelError: the folder holds none.
        """
        return read_tokenizer(self.root)

    def read_processor(self, processor_class: Any, **settings: Any) -> Any:
        """An image processor with the folder's settings.

        Raises:
            ModelError: the folder holds none.
        """
        try:
            with quiet_hub():
                return processor_class.from_pretrained(self.root, local_files_only=True, **settings)
        except Exception as error:  # damaged and missing files surface as a handful of types
            raise ModelError(f"cannot read the image processor of {self.id}: {error}") from error

    def place(self, inputs: Any) -> dict[str, Tensor]:
        """Tensors on the model's device; pixels in its precision too."""
        parameter = next(self.model.parameters())
        return {
            name: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }

    @torch.inference_mode()
    def find(
        self, images: Sequence[Image.Image], concepts: Sequence[Concept], given: Sequence[GivenMasks | None]
    ) -> list[Mask]:
        found: dict[int, Mask] = {}
        for rows in batches([image.size for image in images], most=self.batch):
            masks = self.locate([images[row] for row in rows], [concepts[row] for row in rows])
            found |= dict(zip(rows, masks, strict=True))
        return [found[row] for row in range(len(images))]

    def mask_of(self, inside: Tensor, probability: Tensor) -> Mask:
        """The mask of bool (H, W) without specks; its score is the mean of a float (H, W) there."""
        pixels = clean(inside.cpu().numpy(), speck=self.speck)
        score = float(probability.cpu().numpy()[pixels].mean(dtype=np.float64)) if pixels.any() else 0.0
        return Mask(pixels, min(score, 1.0))


def batches(sizes: Sequence[tuple[int, int]], *, most: int) -> Iterator[list[int]]:
    """The places of pictures in batches of one size, so that none is padded for another's sake."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, size in enumerate(sizes):
        groups.setdefault(size, []).append(row)
    for rows in groups.values():
        for start in range(0, len(rows), most):
            yield rows[start : start + most]


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (n, c, h, w) as float32 at another height and width, (n, c, H, W)."""
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
