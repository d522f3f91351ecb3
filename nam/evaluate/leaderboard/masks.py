"""Dependence on the segmenter: the same pictures, scored with other masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from nam.checks import whole
from nam.errors import ConfigError
from nam.evaluate.agreement import recall_at, spearman
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import Case, rescored
from nam.evaluate.leaderboard.table import Figure

Region = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class MaskDependence(Part):
    """How scores change when the mask is eroded, dilated, shifted, made a box, or the true one.

    The true mask is known where a rendered picture was to be drawn again (prompts of kind "same").

    Attributes:
        prompts: With a picture; None for all.
        pixels: How far masks are eroded, dilated and shifted.
        k: Of recall.
    """

    notes: ClassVar = {
        "mask_rank": "rank correlation of the scores with those of the segmenter's own mask",
        "mask_recall": "change of recall@k with exact ablation when the mask is changed",
    }

    prompts: int | None = 8
    pixels: int = 3
    k: int = 50

    def __post_init__(self) -> None:
        for name in ("pixels", "k"):
            whole(f"evaluate.parts.masks.{name}", getattr(self, name), least=1, error=ConfigError)

    def measure(self, bench: Bench) -> list[Figure]:
        cases = bench.chosen("image", self.prompts)
        found, advance = [], bench.tell("masks", len(cases))
        for case in cases:
            found += self._case(bench, case)
            advance(1)
        return found

    def _case(self, bench: Bench, case: Case) -> list[Figure]:
        truth = bench.truth(case)
        effect = next(name for name in ("proxy_pixels", "pixels") if name in truth.effects)
        known = np.isfinite(truth.effects[effect])
        weights = truth.weights.get(effect)
        found = []
        given = case.work.item.masks or {}
        variants = regions_of(case.region, pixels=self.pixels, true=given.get(case.concept.name))
        for variant, region in variants.items():
            for (method, _), scores in rescored(bench.attributor, case.work, region, name=variant).items():
                own = case.scores[method, "mask"]
                recalls = [
                    recall_at(
                        one[known],
                        truth.effects[effect][known],
                        min(self.k, int(known.sum())),
                        weights=None if weights is None else weights[known],
                    )
                    for one in (scores, own)
                ]
                figures = {
                    f"mask_rank[{variant}]": spearman(scores, own),
                    f"mask_recall@{self.k}[{variant}]": recalls[0] - recalls[1],
                }
                found += [
                    Figure(case.id, case.concept.name, method, "image", "mask", measure, value)
                    for measure, value in figures.items()
                ]
        return found


def regions_of(region: Region, *, pixels: int, true: Region | None = None) -> Mapping[str, Region]:
    """Other masks of the same thing, by name; empty ones are left out.

    Args:
        region: bool (H, W).
        pixels: How far it is eroded, dilated, and shifted to the right.
        true: The mask that the picture should have, if it is known.
    """
    flat = region.astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    box, shifted = np.zeros_like(region), np.zeros_like(region)
    rows, columns = np.nonzero(region)
    if len(rows):
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    shifted[:, pixels:] = region[:, :-pixels]
    found = {
        "eroded": cv2.erode(flat, kernel).astype(bool),
        "dilated": cv2.dilate(flat, kernel).astype(bool),
        "shifted": shifted,
        "box": box,
    }
    if true is not None and true.shape == region.shape:
        found["truth"] = true.astype(bool)
    return {name: mask for name, mask in found.items() if mask.any()}
