"""`attribute.py`: ask the model for words and pictures, and lay its answers out in the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from nam.app.build import build, check
from nam.app.config import claim_run_folder, command
from nam.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

_COLUMNS, _TILE, _CAPTION = 4, 192, 40
CAPTION_PROMPT = "a picture of"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was asked, with a picture or without, and what came back."""

    prompt: str
    asked: Image | None
    text: str
    image: Image | None


@command("attribute")
def main(cfg: DictConfig) -> Path:
    """Generate an answer to every prompt and a caption of some rendered scenes. Returns the grid's path."""
    check(cfg.mllm, where="mllm")
    prompts, pictures = _questions(cfg)
    claim_run_folder(cfg)
    mllm = build(cfg.mllm)
    answers = []
    for index in track(range(len(prompts)), description="generating", transient=True):
        out = mllm.generate(prompt=prompts[index], image=pictures[index], seed=cfg.seed + index)
        answers.append(Answer(prompt=prompts[index], asked=pictures[index], text=out.text, image=out.image))
    grid = Path(cfg.run_dir, "samples.png")
    draw_grid(answers).save(grid)
    write_table(answers, Path(cfg.run_dir, "samples.csv"))
    _print(answers, grid)
    return grid


def draw_grid(answers: list[Answer]) -> Image:
    """One tile per answer: the picture asked about and the one drawn, with prompt and text below (RGB)."""
    from PIL import Image as pil
    from PIL import ImageDraw as pens

    rows = -(-len(answers) // _COLUMNS)
    sheet = pil.new("RGB", (_COLUMNS * _TILE, rows * (_TILE + _CAPTION)), "white")
    pen = pens.Draw(sheet)
    for index, answer in enumerate(answers):
        x, y = _TILE * (index % _COLUMNS), (_TILE + _CAPTION) * (index // _COLUMNS)
        shown = [picture for picture in (answer.asked, answer.image) if picture is not None]
        for place, picture in enumerate(shown):
            side = _TILE // len(shown) - 8
            scaled = picture.resize((side, side), pil.Resampling.NEAREST)
            sheet.paste(scaled, (x + 4 + place * (side + 8), y + 4))
        for line, words in enumerate((answer.prompt, f"> {answer.text}")):
            at = (x + 4, y + _TILE + 2 + 17 * line)
            pen.text(at, _fit(pen, words), fill="black" if line else "dimgray")
    return sheet


def write_table(answers: list[Answer], path: Path) -> None:
    """One row per answer: prompt, whether a picture was given, text, whether a picture was drawn."""
    import pandas as pd

    columns = ["prompt", "picture_in", "text", "picture_out"]
    rows = [(a.prompt, a.asked is not None, a.text, a.image is not None) for a in answers]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


def _questions(cfg: DictConfig) -> tuple[list[str], list[Image | None]]:
    """The prompts, and the picture that goes with each; the last `cfg.scenes` ask for a caption."""
    from PIL import Image as pil

    from nam.world.render import render
    from nam.world.scene import sample_scene

    prompts = OmegaConf.to_container(cfg.prompts)
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ConfigError(f"prompts must be a list of texts, got {prompts!r}")
    for key in ("seed", "scenes"):
        if not isinstance(cfg[key], int) or cfg[key] < 0:
            raise ConfigError(f"{key} must be a whole number from 0, got {cfg[key]!r}")
    rng = np.random.default_rng(cfg.seed)
    drawn = [render(sample_scene(rng, split="test"), rng=rng).image for _ in range(cfg.scenes)]
    scenes = [pil.fromarray(image) for image in drawn]
    if not prompts and not scenes:
        raise ConfigError("nothing to ask: set prompts=[...] or scenes=2")
    return [*map(str, prompts), *[CAPTION_PROMPT] * len(scenes)], [*[None] * len(prompts), *scenes]


def _fit(pen: ImageDraw, words: str) -> str:
    """Cut words to a tile's width."""
    if pen.textlength(words) <= _TILE - 8:
        return words
    while pen.textlength(f"{words}...") > _TILE - 8:
        words = words[:-1]
    return f"{words}..."


def _print(answers: list[Answer], grid: Path) -> None:
    table = Table("prompt", "answer", "picture")
    for answer in answers:
        asked = f"[picture] {answer.prompt}" if answer.asked is not None else answer.prompt
        table.add_row(escape(asked), escape(answer.text), "yes" if answer.image else "")
    console = Console()
    console.print(table)
    console.print(f"pictures: {grid}", highlight=False, soft_wrap=True)
