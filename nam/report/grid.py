"""The same prompts and seeds before and after an edit, side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

#: Side of a picture, gap between pictures, room for "before" and "after", in pixels.
SIDE, GAP, LABEL = 144, 12, 64

#: Height of a line of text, and of a heading.
LINE, HEADING = 16, 24

#: Most lines of a caption.
LINES = 4

_INK, _SOFT, _PAPER, _CHANGED = (15, 23, 42), (100, 116, 139), (255, 255, 255), (190, 24, 93)

_Point = tuple[int, int]
_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True, eq=False)
class Column:
    """One prompt: what was asked, and what came before and after; None where nothing was drawn."""

    title: str
    before: Image.Image | None
    after: Image.Image | None
    said_before: str = ""
    said_after: str = ""


def before_after(groups: Sequence[tuple[str, Sequence[Column]]], *, columns: int = 6) -> Image.Image:
    """Groups of columns, one below the other: in each, a row of pictures before and one after. Words that
    the edit changed are coloured.

    Args:
        groups: Title and columns of each; one without columns is left out.
        columns: Most columns of a group.
    """
    shown = [(title, found[:columns]) for title, found in groups if found]
    font, heading = _font(12), _font(15)
    width = LABEL + max([1, *(len(found) for _, found in shown)]) * (SIDE + GAP) + GAP
    blocks = [_block(title, found, width, font, heading) for title, found in shown]
    sheet = Image.new("RGB", (width, GAP + sum(block.height for block in blocks)), _PAPER)
    top = GAP
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _block(title: str, found: Sequence[Column], width: int, font: _Font, heading: _Font) -> Image.Image:
    texts = [[wrap(text, font) for text in (one.title, one.said_before, one.said_after)] for one in found]
    heights = [LINE * max(len(column[row]) for column in texts) for row in range(3)]
    block = Image.new("RGB", (width, HEADING + sum(heights) + 2 * SIDE + 4 * GAP), _PAPER)
    pen = ImageDraw.Draw(block)
    pen.text((GAP, 0), title, fill=_INK, font=heading)
    for at, (column, (asked, before, after)) in enumerate(zip(found, texts, strict=True)):
        left = LABEL + at * (SIDE + GAP)
        # A short request stands right above its picture.
        _write(pen, asked, (left, HEADING + heights[0] - LINE * len(asked)), _SOFT, font)
        top = HEADING + heights[0] + GAP // 2
        colour = _INK if column.said_before == column.said_after else _CHANGED
        for name, picture, said, ink in (
            ("before", column.before, before, _INK),
            ("after", column.after, after, colour),
        ):
            if at == 0:
                pen.text((GAP, top + SIDE // 2 - LINE // 2), name, fill=_INK, font=font)
            _show(block, pen, picture, (left, top), font)
            _write(pen, said, (left, top + SIDE + 2), ink, font)
            top += SIDE + heights[1 if name == "before" else 2] + GAP
    return block


def _show(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    picture: Image.Image | None,
    at: tuple[int, int],
    font: _Font,
) -> None:
    if picture is not None:
        sheet.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), at)
        return
    pen.rectangle((*at, at[0] + SIDE - 1, at[1] + SIDE - 1), outline=(203, 213, 225))
    pen.text((at[0] + SIDE // 2, at[1] + SIDE // 2), "no picture", fill=_SOFT, font=font, anchor="mm")


def _write(
    pen: ImageDraw.ImageDraw, lines: Sequence[str], at: _Point, ink: tuple[int, int, int], font: _Font
) -> None:
    for i, line in enumerate(lines):
        pen.text((at[0], at[1] + i * LINE), line, fill=ink, font=font)


def wrap(text: str, font: _Font, *, width: int = SIDE, most: int = LINES) -> list[str]:
    """The text in lines that fit under a picture; an ellipsis stands for what is beyond the last one."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    short = [_cut(line, font, width) for line in lines]
    return short if len(short) <= most else [*short[: most - 1], _cut(f"{short[most - 1]} …", font, width)]


def _cut(line: str, font: _Font, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    kept = line.removesuffix(" …")
    while kept and font.getlength(f"{kept}…") > width:
        kept = kept[:-1]
    return f"{kept}…"


def _font(size: int) -> _Font:
    """matplotlib's own font, which spaces small letters better than Pillow's and has every sign used here."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
