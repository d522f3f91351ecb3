"""OpenCV on masks: specks removed, small holes filled."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]


def clean(mask: BoolMask, *, speck: float) -> BoolMask:
    """The mask without specks and small holes.

    Args:
        mask: bool (H, W).
        speck: Share of the picture below which a connected part is dropped, and a gap (a part of what the
            mask leaves out) filled. Larger gaps stay: the thing in front of a place is no part of the place.
    """
    least = speck * mask.size
    kept = _drop_small(mask, least, connectivity=8)
    # Where parts of a mask touch by their corners, the gaps between them do not.
    return ~_drop_small(~kept, least, connectivity=4)


def _drop_small(mask: BoolMask, least: float, *, connectivity: int) -> BoolMask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    keep = stats[:, cv2.CC_STAT_AREA] >= least
    keep[0] = False  # label 0 is what the mask leaves out
    return keep[labels]
