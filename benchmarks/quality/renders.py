"""What is measured on renders: the judge, the segmenter, the autoencoder."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.quality.bench import ASPECTS, Bench, match, renders_of, rng_for, scenes_of, shares
from benchmarks.quality.intervals import iou_interval, mean_iou
from benchmarks.quality.rows import Measure, Section, Spec
from nam.data.scenes import to_pixels
from nam.mllm.pictures import to_picture
from nam.world.labels import segmentation
from nam.world.language import facts_of
from nam.world.render import render
from nam.world.scene import NOUNS, PLACES

POSES = ("shipped", "free")
CLASSES = len(NOUNS) + len(PLACES)
_JUDGED = ("nouns", "things", "place")


def judge_renders(bench: Bench) -> dict[str, Measure]:
    """The judge on unseen renders, one and two things."""
    found: dict[str, Measure] = {}
    for pose in POSES:
        matches = []
        for seed in bench.seeds:
            rng = rng_for(f"judge {pose}", seed)
            scenes = scenes_of(rng, 5 * bench.count, things=None, pose=pose)
            seen = [verdict.facts for verdict in bench.judge(renders_of(scenes, rng))]
            matches.append([match(facts_of(s), f) for s, f in zip(scenes, seen, strict=True)])
        found |= shares(pose, matches, _JUDGED)
    return found


def classify(model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Class of every pixel, (B, H, W), of pictures (B, H, W, 3)."""
    with torch.inference_mode():
        logits = model(pixel_values=to_pixels(images)).logits
        whole: Tensor = F.interpolate(logits, size=images.shape[1:3], mode="bilinear", align_corners=False)
        return whole.argmax(1).numpy()


def overlaps(
    predicted: NDArray[np.int64], true: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of intersection and union per class, both (classes,), of one picture's class maps."""
    both = np.bincount(CLASSES * true.ravel() + predicted.ravel(), minlength=CLASSES**2)
    table = both.reshape(CLASSES, CLASSES)
    hit = table.diagonal()
    return hit, table.sum(0) + table.sum(1) - hit


def segment_renders(bench: Bench) -> dict[str, Measure]:
    """The segmenter on unseen renders, one and two things."""
    found: dict[str, Measure] = {}
    model = bench.segmenter
    for pose in POSES:
        hits, unions, per_seed = [], [], []
        for seed in bench.seeds:
            rng = rng_for(f"segmenter {pose}", seed)
            scenes = scenes_of(rng, 2 * bench.count, things=None, pose=pose)
            rendered = [render(scene, rng=rng) for scene in scenes]
            true = [segmentation(r.masks, s.place) for r, s in zip(rendered, scenes, strict=True)]
            images = np.stack([r.image for r in rendered])
            parts = [classify(model, images[i : i + 64]) for i in range(0, len(images), 64)]
            pairs = [overlaps(p, t) for p, t in zip(np.concatenate(parts), true, strict=True)]
            seed_hits, seed_unions = (np.stack(side) for side in zip(*pairs, strict=True))
            hits.append(seed_hits)
            unions.append(seed_unions)
            per_seed.append(round(mean_iou(seed_hits, seed_unions), 4))
        all_hits, all_unions = np.concatenate(hits), np.concatenate(unions)
        things = slice(0, len(NOUNS))
        for name, columns in ((pose, slice(None)), (f"{pose}.things", things)):
            h, u = all_hits[:, columns], all_unions[:, columns]
            seeds = tuple(per_seed) if name == pose else ()
            found[name] = Measure(mean_iou(h, u), *iou_interval(h, u), len(h), seeds)
    return found


def reconstruct(bench: Bench, images: NDArray[np.uint8]) -> Tensor:
    """Pixels (B, 3, H, W) in 0..1 after the autoencoder has encoded and decoded the pictures."""
    diffusion = bench.mllm.diffusion
    pixels = (to_pixels(images) / 2 + 0.5).to(bench.mllm.unembedding)
    with torch.inference_mode():
        parts = [diffusion.decode(diffusion.encode(part)) for part in pixels.split(64)]
    return torch.cat(parts).float().clamp(0, 1)


def autoencode_renders(bench: Bench) -> dict[str, Measure]:
    """What of a picture survives the autoencoder: no drawn picture can be better than that."""
    matches, decibels = [], []
    for seed in bench.seeds:
        rng = rng_for("autoencoder", seed)
        scenes = scenes_of(rng, 2 * bench.count, things=None)
        images = renders_of(scenes, rng)
        out = reconstruct(bench, images)
        error = (out - (to_pixels(images) / 2 + 0.5)).square().mean(dim=(1, 2, 3))
        decibels.append((-10 * error.log10()).tolist())
        seen = bench.see([to_picture(pixels) for pixels in out])
        matches.append([match(facts_of(s), f) for s, f in zip(scenes, seen, strict=True)])
    return {**shares("judged", matches, _JUDGED), "psnr": Measure.mean(decibels)}


def _judged(name: str, pose: str, target: float | None) -> tuple[Spec, ...]:
    return tuple(Spec(f"{name}.{a}", f"{pose}: {ASPECTS[a]}", target) for a in _JUDGED)


SECTIONS = (
    Section(
        "judge",
        "The judge on renders",
        (*_judged("shipped", "shipped pose", 99), *_judged("free", "free pose", 99)),
        judge_renders,
    ),
    Section(
        "segmenter",
        "The segmenter on renders",
        tuple(
            Spec(key, f"{pose} pose: mean IoU{what}", target, unit="")
            for pose in POSES
            for key, what, target in ((pose, "", 0.85), (f"{pose}.things", ", things alone", None))
        ),
        segment_renders,
    ),
    Section(
        "autoencoder",
        "The autoencoder on renders",
        (*_judged("judged", "judged after reconstruction", None), Spec("psnr", "PSNR", unit="dB")),
        autoencode_renders,
    ),
)
