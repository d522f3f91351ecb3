"""Frames of a video and ranges of time: what a region of a sound or a video is, and the neurons behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nam
from nam.errors import InputError, TargetError
from nam.mllm.nextgpt import NextGPT
from nam.mllm.video import from_sheet, grid_of, to_sheet
from nam.regions import frames_as_sheet, time_region
from nam.types import Concept, Generation, Spans
from tests.mllm.nextgpt_parts import model, parts

__all__ = ["model", "parts"]


@pytest.mark.parametrize(
    ("count", "grid"), [(1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (5, (2, 3)), (24, (5, 5))]
)
def test_frames_lie_row_by_row(count: int, grid: tuple[int, int]) -> None:
    frames = torch.rand(2, count, 3, 4, 6)
    sheet = to_sheet(frames)
    assert grid_of(count) == grid
    assert sheet.shape == (2, 3, 4 * grid[0], 6 * grid[1])
    for place in range(count):
        row, column = divmod(place, grid[1])
        cut = sheet[:, :, 4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
        assert torch.equal(cut, frames[:, place])
    assert torch.equal(from_sheet(sheet, count=count), frames)
    masks = frames[0, :, 0] > 0.5
    expected = to_sheet(masks[None, :, None].float())[0, 0] > 0.5
    assert np.array_equal(frames_as_sheet(masks.numpy()), expected.numpy())


def test_neurons_of_a_range_of_time(model: NextGPT) -> None:
    heard, seen = (model.generate("a dog", draw=medium, max_new_tokens=2) for medium in ("audio", "video"))
    early, late = (
        nam.attribute(model, heard, concept="dog", modality="audio", time=time)
        for time in ((0, 0.5), (0.5, 1))
    )
    assert early.scores.shape == (2, 48)
    assert early.modality == early.target.modality == "audio"
    assert early.target.positions == tuple(heard.spans.img)
    assert early.mask is not None
    assert early.mask.pixels[:, :20].all()
    assert not early.mask.pixels[:, 20:].any()
    assert not torch.allclose(early.scores, late.scores, rtol=1e-2)
    one = nam.attribute(model, seen, concept="dog", modality="video", segmenter="none", time=(0, 0.3))
    assert one.mask is not None
    assert one.mask.pixels[:32, :48].all()
    assert int(one.mask.pixels.sum()) == 32 * 48
    with pytest.raises(TargetError, match="has no picture"):
        nam.attribute(model, heard, concept="dog", modality="image")
    with pytest.raises(TargetError, match="has no sound"):
        nam.attribute(model, seen, concept="dog", modality="audio")
    with pytest.raises(InputError, match=r"goes from 0 or more to 1 or less, got 0.5 to 0.5"):
        nam.attribute(model, heard, concept="dog", modality="audio", time=(0.5, 0.5))


@pytest.mark.parametrize(
    ("columns", "start", "stop", "expected"),
    [
        (4, 0.0, 1.0, [0, 1, 2, 3]),
        (4, 0.25, 0.75, [1, 2]),
        (4, 0.3, 0.31, [1]),
        (4, 0.3, 0.6, [1, 2]),
        (3, 0.9, 1.0, [2]),
    ],
)
def test_ranges_of_time_by_hand(columns: int, start: float, stop: float, expected: list[int]) -> None:
    heard = Generation(
        prompt="",
        text="",
        token_ids=(),
        spans=Spans.of_lengths(system=0, picture=0, text=0, answer=0, img=0),
        finish="stop",
        seed=0,
        image=Image.new("RGB", (columns, 2)),
        medium="audio",
    )
    mask = time_region(heard, start, stop)
    assert mask.shape == (2, columns)
    assert all(np.flatnonzero(row).tolist() == expected for row in mask)
    with pytest.raises(TargetError, match="needs a sound or a video"):
        time_region(replace(heard, medium="image"))


def test_concepts_are_looked_for_in_every_frame(model: NextGPT) -> None:
    from nam.regions import regions_of
    from nam.segmenter.base import Mask, Segmenter

    class Corner(Segmenter):
        """One pixel of each frame, a different one."""

        def find(self, images: Any, concepts: Any, given: Any) -> list[Mask]:
            masks = [np.zeros((image.height, image.width), dtype=np.bool_) for image in images]
            for place, mask in enumerate(masks):
                mask[place, 2 * place] = True
            return [Mask(mask, 0.5) for mask in masks]

    seen = model.generate("a dog", draw="video", max_new_tokens=2)
    concept = Concept("dog")
    whole = regions_of([seen], [concept], Corner(), given=[None], times=[(0.0, 1.0)])[0]
    assert np.argwhere(whole.pixels).tolist() == [[0, 0], [1, 50], [34, 4]]
    late = regions_of([seen], [concept], Corner(), given=[None], times=[(0.7, 1.0)])[0]
    assert np.argwhere(late.pixels).tolist() == [[34, 4]]
    assert (whole.score, late.score) == (0.5, 0.5)
