"""Batches of drawn scenes for the trainings of the embedded model's parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nam.data.batches import Batch
from nam.mllm.parts import freeze, read_pretrained, read_tokenizer
from nam.world.labels import presence, segmentation, slots
from nam.world.language import Facts, canonical_facts, facts_of, leave_out, phrase
from nam.world.render import render
from nam.world.scene import SPLITS, Scene, sample_scene
from nam.world.tokenizer import build_tokenizer, encode_captions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def to_pixels(images: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


@dataclass(frozen=True)
class Draw:
    """How scenes are drawn. poses: pose name -> its share. two_things: share of two-thing scenes."""

    poses: dict[str, float]
    two_things: float = 0.35

    def scenes(self, rng: np.random.Generator, n: int, split: str) -> list[Scene]:
        names, shares = list(self.poses), np.array(list(self.poses.values()), dtype=float)
        chosen = rng.choice(len(names), size=n, p=shares / shares.sum())
        return [sample_scene(rng, pose=names[i], split=split, two_things=self.two_things) for i in chosen]


@dataclass(frozen=True)
class Pictures:
    """pixels (B, 3, 64, 64)."""

    draw: Draw

    def __call__(self, rng: np.random.Generator, n: int, split: str) -> Batch:
        images = [render(scene, rng=rng).image for scene in self.draw.scenes(rng, n, split)]
        return {"pixels": to_pixels(np.stack(images))}


@dataclass(frozen=True)
class LabelledPictures:
    """pixels, presence (B, 13) and place (B,), with the classifier's augmentation.

    noise: largest standard deviation of pixel noise; blur: largest radius of a box blur in pixels; shade:
    largest change of brightness and contrast. Every picture draws its own.
    """

    draw: Draw
    noise: float = 0.0
    blur: float = 0.0
    shade: float = 0.0

    def __call__(self, rng: np.random.Generator, n: int, split: str) -> Batch:
        scenes = self.draw.scenes(rng, n, split)
        images = np.stack([self._augment(render(scene, rng=rng).image, rng) for scene in scenes])
        tables, places = zip(*(presence(scene) for scene in scenes), strict=True)
        return {
            "pixels": to_pixels(images),
            "presence": torch.from_numpy(np.stack(tables)),
            "place": torch.tensor(places),
        }

    def _augment(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        import cv2

        out: NDArray[Any] = image.astype(np.float32)
        if self.blur and rng.random() < 0.5:
            out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.2, self.blur))
        gain, lift = 1 + rng.uniform(-self.shade, self.shade), 255 * rng.uniform(-self.shade, self.shade) / 2
        out = out * gain + lift + rng.normal(0, 255 * rng.uniform(0, self.noise) + 1e-6, out.shape)
        return np.clip(out, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class SegmentedPictures:
    """pixels and classes (B, 64, 64): see nam.world.labels.segmentation."""

    draw: Draw

    def __call__(self, rng: np.random.Generator, n: int, split: str) -> Batch:
        return _pixels_and_classes(self.draw.scenes(rng, n, split), rng)


def _pixels_and_classes(scenes: list[Scene], rng: np.random.Generator) -> Batch:
    rendered = [render(scene, rng=rng) for scene in scenes]
    classes = [segmentation(r.masks, s.place) for r, s in zip(rendered, scenes, strict=True)]
    return {
        "pixels": to_pixels(np.stack([r.image for r in rendered])),
        "classes": torch.from_numpy(np.stack(classes)),
    }


@dataclass(frozen=True)
class CaptionedPictures:
    """pixels and classes, input_ids and attention_mask (B, 16) of a caption each, and the facts of both:
    picture_slots and caption_slots (B, 5), see nam.world.labels.slots.

    canonical: share of canonical captions (the others are phrased at random). omit: share of captions that
    leave something out.
    """

    draw: Draw
    canonical: float = 0.5
    omit: float = 0.25

    def __call__(self, rng: np.random.Generator, n: int, split: str) -> Batch:
        scenes = self.draw.scenes(rng, n, split)
        said, texts = zip(
            *(say(facts_of(s), rng, canonical=self.canonical, omit=self.omit) for s in scenes), strict=True
        )
        input_ids, attention_mask = encode_captions(_tokenizer(), texts)
        return {
            **_pixels_and_classes(scenes, rng),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "picture_slots": torch.from_numpy(np.stack([slots(facts_of(scene)) for scene in scenes])),
            "caption_slots": torch.from_numpy(np.stack([slots(f) for f in said])),
        }


class CaptionedLatents:
    """latents (B, C, h, w), raw, and input_ids and attention_mask (B, 16) of a caption each.

    There are `bank` pictures per split, each drawn and encoded when it is first chosen; their captions are
    phrased anew each time. weights_dir: holds the trained `vae` and `clip`. canonical, omit: see
    CaptionedPictures.
    """

    def __init__(
        self,
        *,
        draw: Draw,
        weights_dir: str,
        bank: int = 40_000,
        canonical: float = 0.7,
        omit: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.draw, self.bank, self.canonical, self.omit, self.seed = draw, bank, canonical, omit, seed
        self.folder = Path(weights_dir)
        self._banks: dict[str, dict[int, tuple[Tensor, Facts]]] = {split: {} for split in SPLITS}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return read_tokenizer(self.folder / "clip")

    @cached_property
    def vae(self) -> Any:
        from diffusers import AutoencoderTiny

        return freeze(read_pretrained(AutoencoderTiny, self.folder / "vae", torch.float32))

    def __call__(self, rng: np.random.Generator, n: int, split: str) -> Batch:
        bank = self._banks[split]
        chosen = rng.integers(self.bank, size=n).tolist()
        missing = [i for i in dict.fromkeys(chosen) if i not in bank]
        if missing:
            bank.update(zip(missing, self._encode(missing, split), strict=True))
        latents, facts = zip(*(bank[i] for i in chosen), strict=True)
        texts = [say(f, rng, canonical=self.canonical, omit=self.omit)[1] for f in facts]
        input_ids, attention_mask = encode_captions(self.tokenizer, texts)
        return {
            "latents": torch.stack(latents).float(),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
        }

    @torch.no_grad()
    def _encode(self, numbers: list[int], split: str) -> list[tuple[Tensor, Facts]]:
        """Latent (C, h, w), in half precision to save memory, and facts of pictures by their number."""
        images, facts = [], []
        for number in numbers:
            rng = np.random.default_rng([self.seed, SPLITS.index(split), number])
            scene = self.draw.scenes(rng, 1, split)[0]
            images.append(render(scene, rng=rng).image)
            facts.append(facts_of(scene))
        latents = self.vae.encode(to_pixels(np.stack(images))).latents.half()
        return list(zip(latents.unbind(), facts, strict=True))


def say(facts: Facts, rng: np.random.Generator, *, canonical: float, omit: float) -> tuple[Facts, str]:
    """What a caption says of the facts, with probability `omit` not all of them, and the caption itself,
    with probability `canonical` the canonical one."""
    said = leave_out(facts, rng) if rng.random() < omit else facts
    return said, canonical_facts(said) if rng.random() < canonical else phrase(said, rng)


_tokenizer = lru_cache(maxsize=1)(build_tokenizer)
