"""Videos by diffusion: the parts of a text-to-video pipeline of diffusers, such as ZeroScope's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from nam.mllm.config import GillConfig, read_json
from nam.mllm.diffusion import Diffusion, read_unet
from nam.mllm.hub import Folder
from nam.mllm.nextgpt_config import NextGPTConfig
from nam.mllm.parts import Reader
from nam.mllm.pictures import to_picture
from nam.types import Medium


class VideoDiffusion(Diffusion):
    """A latent diffusion model of videos.

    Its picture is a sheet of the frames, row by row, as wide as it is high where their number allows; places
    without a frame are black. A region of the sheet is a region of each frame: a time range is some frames.
    """

    medium: ClassVar[Medium] = "video"

    @classmethod
    def _readers(cls, config: GillConfig, folder: Folder) -> dict[str, Reader]:
        return {
            **super()._readers(config, folder),
            "unet": partial(read_unet, folder, "UNet3DConditionModel"),
        }

    @property
    def _size(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        config = cast(NextGPTConfig, self.config)
        return (config.video_frames, *config.video_size)

    def _shape(self, unet_config: Mapping[str, Any]) -> tuple[int, ...]:
        scale = 2 ** (len(read_json(self.folder / "vae" / "config.json")["block_out_channels"]) - 1)
        frames, height, width = self._size
        return unet_config["in_channels"], frames, height // scale, width // scale

    def decode(self, latents: Tensor) -> Tensor:
        """Sheets (B, 3, H, W) of normalised latents (B, C, frames, h, w); 0 is black, 1 is white."""
        # A frame at a time: decoding takes more memory than anything else.
        frames = [super(VideoDiffusion, self).decode(frame) for frame in latents.unbind(2)]
        return to_sheet(torch.stack(frames, dim=1))

    def extras(self, pixels: Tensor) -> list[dict[str, Any]]:
        """The frames."""
        frames = from_sheet(pixels, count=self._size[0])
        return [{"frames": tuple(map(to_picture, video))} for video in frames]


def to_sheet(frames: Tensor) -> Tensor:
    """Frames (B, F, 3, H, W) row by row in one picture (B, 3, rows * H, columns * W)."""
    batch, count, channels, height, width = frames.shape
    rows, columns = grid_of(count)
    empty = frames.new_zeros(batch, rows * columns - count, channels, height, width)
    grid = torch.cat([frames, empty], dim=1).unflatten(1, (rows, columns))
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * height, columns * width)


def from_sheet(sheet: Tensor, *, count: int) -> Tensor:
    """The `count` frames of `to_sheet`: (B, F, C, H, W)."""
    rows, columns = grid_of(count)
    batch, channels, height, width = sheet.shape
    grid = sheet.reshape(batch, channels, rows, height // rows, columns, width // columns)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, :count]


def grid_of(count: int) -> tuple[int, int]:
    """Rows and columns of a sheet of so many frames."""
    columns = math.isqrt(count - 1) + 1
    return -(-count // columns), columns
