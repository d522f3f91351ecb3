"""Pictures for the docs: real, reconstructed and drawn scenes, drawn riddles, masks of drawn pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.bench import Bench, renders_of, rng_for
from benchmarks.quality.renders import classify, reconstruct
from benchmarks.quality.rows import Measure, Section
from nam.mllm.pictures import to_picture
from nam.world.knowledge import riddles
from nam.world.language import canonical
from nam.world.scene import NOUNS, Scene, sample_scene

#: One column per thing; the last scenes hold two things.
COLUMNS = len(NOUNS)
_TWO_THINGS = 4
_DPI = 110

Cell = tuple[NDArray[np.uint8] | None, str]


def grid_scenes() -> list[Scene]:
    """Unseen combinations, each thing first once; nothing is chosen by how well it is drawn."""
    rng = rng_for("grid", 0)
    scenes: list[Scene] = []
    for column, noun in enumerate(NOUNS):
        two = float(column >= COLUMNS - _TWO_THINGS)
        while len(scenes) == column:
            scene = sample_scene(rng, split="test", two_things=two)
            if scene.things[0].noun == noun:
                scenes.append(scene)
    return scenes


def draw_grid(bench: Bench) -> dict[str, Measure]:
    """Write `images/tiny_gill_grid.png`."""
    scenes = grid_scenes()
    images = renders_of(scenes, rng_for("grid", 1))
    again = [np.asarray(to_picture(pixels)) for pixels in reconstruct(bench, images)]
    said = [canonical(scene) for scene in scenes]
    drawn = _draw(bench, [f"draw {caption} ." for caption in said])
    asked = [riddle.prompt for riddle in _one_riddle_each()]
    rows: list[tuple[str, list[Cell]]] = [
        ("real", [(image, caption) for image, caption in zip(images, said, strict=True)]),
        ("reconstructed", [(image, "") for image in again]),
        ("drawn", [(image, "") for image in drawn]),
        ("riddles", list(zip(_draw(bench, asked), asked, strict=True))),
    ]
    write_grid(rows, bench.out / "images" / "tiny_gill_grid.png")
    return {}


def draw_masks(bench: Bench) -> dict[str, Measure]:
    """Write `images/tiny_gill_masks.png`: drawn pictures and what the segmenter finds in them."""
    said = [canonical(scene) for scene in grid_scenes()]
    drawn = _draw(bench, [f"draw {caption} ." for caption in said])
    rows: list[tuple[str, list[Cell]]] = [("drawn", []), ("masks", [])]
    for image, caption in zip(drawn, said, strict=True):
        rows[0][1].append((image, caption))
        found = None if image is None else classify(bench.segmenter, image[None])[0]
        rows[1][1].append((None, "") if image is None or found is None else overlay(image, found))
    write_grid(rows, bench.out / "images" / "tiny_gill_masks.png")
    return {}


def overlay(image: NDArray[np.uint8], classes: NDArray[np.int64]) -> Cell:
    """The picture with everything but its things faded and their outlines marked; the things' names."""
    import cv2

    things = classes < len(NOUNS)
    faded = np.where(things[..., None], image, image // 3 + 165).astype(np.uint8)
    found = [i for i in range(len(NOUNS)) if (classes == i).sum() >= 20]
    for i in found:
        mask = (classes == i).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(faded, outlines, -1, (255, 0, 255), 1)
    return faded, ", ".join(NOUNS[i] for i in found)


def write_grid(rows: Sequence[tuple[str, list[Cell]]], path: Path) -> None:
    """A PNG with a row of pictures per entry, each with its words below it; an absent picture stays empty."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(cells) for _, cells in rows)
    heights = [1.55 if any(words for _, words in cells) else 1.08 for _, cells in rows]
    figure = Figure(figsize=(1.05 * columns + 0.3, sum(heights)), dpi=_DPI)
    axes: Any = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    figure.subplots_adjust(left=0.025, right=0.998, top=0.995, bottom=0.005, wspace=0.05, hspace=0.02)
    for row, (title, cells) in enumerate(rows):
        for column, axis in enumerate(axes[row]):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
            axis.set_anchor("N")
            if column == 0:
                axis.set_ylabel(title, fontsize=9)
            if column < len(cells):
                image, words = cells[column]
                shown = np.full((64, 64, 3), 255, dtype=np.uint8) if image is None else image
                axis.imshow(shown, interpolation="nearest")
                axis.set_xlabel("\n".join(textwrap.wrap(words, 17)), fontsize=7, labelpad=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def _draw(bench: Bench, prompts: Sequence[str]) -> list[NDArray[np.uint8] | None]:
    answers = bench.ask(prompts, seed=0, draw="auto", what="figures")
    return [None if answer.image is None else np.array(answer.image) for answer in answers]


def _one_riddle_each() -> list[Any]:
    """A held-out drawing riddle for each thing."""
    found = [riddle for riddle in riddles(held_out=True) if riddle.draw]
    rng = rng_for("grid riddles", 0)
    own = {noun: [riddle for riddle in found if riddle.answer_noun == noun] for noun in NOUNS}
    return [riddles_[int(rng.integers(len(riddles_)))] for riddles_ in own.values()]


SECTIONS = (
    Section("grid", "The grid of pictures", (), draw_grid),
    Section("mask_grid", "The grid of masks", (), draw_masks),
)
