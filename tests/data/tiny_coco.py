"""A COCO of a few drawn pictures, in the files that COCO is published in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (30, 40)

#: Name, and the number that COCO gives it.
CATEGORIES = {"dog": 18, "hot dog": 58, "person": 1, "airplane": 5, "cat": 17}

#: Captions and marks of each picture; a mark is a name and rows and columns, or run lengths.
PICTURES: dict[int, tuple[list[str], list[tuple[str, Any]]]] = {
    139: (["a quiet street", "Two men  walk a big dog"], [("dog", (5, 20, 4, 30)), ("person", (0, 9, 0, 9))]),
    285: (["a hot dog on a plate"], [("hot dog", (2, 12, 3, 23)), ("dog", (12, 28, 2, 38))]),
    632: (["a plane in the sky"], [("airplane", "crowd"), ("airplane", (25, 29, 30, 40))]),
    724: (["a red stop sign"], [("cat", (0, 20, 0, 20))]),
    776: (["three cats"], [("cat", (0, 2, 0, 2))]),
    785: (["a cat beside another cat"], [("cat", (3, 18, 5, 15)), ("cat", (10, 28, 12, 35))]),
}

#: The crowd's runs down the columns, off and on: rows 3 to 22 of columns 10 to 12.
CROWD = [10 * 30 + 3, 20, 10, 20, 10, 20, 7 + 27 * 30]


def write_coco(folder: Path, *, split: str = "val2017") -> Path:
    """Write annotations and pictures; return the folder."""
    (folder / "annotations").mkdir(parents=True)
    (folder / split).mkdir()
    images, marks, captions = [], [], []
    for number, (texts, things) in PICTURES.items():
        name = f"{number:012d}.jpg"
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        grey = np.full((*SIZE, 3), number % 250, dtype=np.uint8)
        Image.fromarray(grey).save(folder / split / name)
        captions += [
            {"image_id": number, "id": len(captions) + place, "caption": t} for place, t in enumerate(texts)
        ]
        for thing, where in things:
            marks.append({"image_id": number, "category_id": CATEGORIES[thing], **_mark(where)})
    categories = [{"id": place, "name": name} for name, place in CATEGORIES.items()]
    for what, content in (
        ("instances", {"images": images, "annotations": marks, "categories": categories}),
        ("captions", {"images": images, "annotations": captions}),
    ):
        (folder / "annotations" / f"{what}_{split}.json").write_text(json.dumps(content))
    return folder


def true_mask(where: Any) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    top, bottom, left, right = (3, 23, 10, 13) if where == "crowd" else where
    mask[top:bottom, left:right] = True
    return mask


def _mark(where: Any) -> dict[str, Any]:
    area = float(true_mask(where).sum())
    if where == "crowd":
        return {"iscrowd": 1, "area": area, "segmentation": {"size": list(SIZE), "counts": CROWD}}
    top, bottom, left, right = where
    corners = [left, top, right, top, right, bottom, left, bottom]
    return {"iscrowd": 0, "area": area, "segmentation": [list(map(float, corners))]}
