"""The same prompts and seeds before and after an edit, side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

#: Side of a picture, gap between pictures, and height of a line of text, in pixels.
SIDE, GAP, LINE = 128, 8, 15

_INK, _SOFT, _PAPER = (15, 23, 42), (100, 116, 139), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Column:
    """One prompt: what was asked, and what came before and after; None where nothing was drawn."""

    title: str
    before: Image.Image | None
    after: Image.Image | None
    said_before: str = ""
    said_after: str = ""


def before_after(groups: Sequence[tuple[str, Sequence[Column]]], *, columns: int = 6) -> Image.Image:
    """Groups of columns, one below the other: in each, a row of pictures before and one after.

    Args:
        groups: Title and columns of each.
        columns: Most columns of a group.
    """
    label = 64
    width = label + columns * (SIDE + GAP) + GAP
    block = LINE * 2 + 2 * (SIDE + 2 * LINE + GAP) + LINE * 2
    sheet = Image.new("RGB", (width, max(1, len(groups)) * block + GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    heading = ImageFont.load_default(size=14)
    for number, (title, found) in enumerate(groups):
        top = number * block + GAP
        pen.text((GAP, top), title, fill=_INK, font=heading)
        top += LINE + GAP
        for at, column in enumerate(found[:columns]):
            left = label + at * (SIDE + GAP)
            for i, line in enumerate(_wrap(column.title, font)):
                pen.text((left, top + i * LINE), line, fill=_SOFT, font=font)
        top += 2 * LINE
        for name in ("before", "after"):
            pen.text((GAP, top + SIDE // 2), name, fill=_INK, font=font)
            for at, column in enumerate(found[:columns]):
                left = label + at * (SIDE + GAP)
                picture = getattr(column, name)
                if picture is not None:
                    sheet.paste(
                        picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top)
                    )
                for i, line in enumerate(_wrap(getattr(column, f"said_{name}"), font)):
                    pen.text((left, top + SIDE + i * LINE), line, fill=_INK, font=font)
            top += SIDE + 2 * LINE + GAP
    return sheet


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """At most two lines that fit under a picture."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= SIDE:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:2]
