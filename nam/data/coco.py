"""COCO: captioned pictures with the true mask of every thing (Lin et al. 2014)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nam.data.asking import Mentions, ask, check_asking, coco_concepts, subset
from nam.data.coco_masks import decode
from nam.data.items import Item
from nam.errors import ConfigError, InputError
from nam.mllm.pictures import read_picture
from nam.types import Sample


@dataclass(frozen=True)
class Picture:
    """A picture that can be asked about.

    Attributes:
        id: COCO's number.
        file: Its file's name.
        size: Height and width.
        caption: One that says the concept.
        concept: The thing that covers most of it among those that a caption says.
    """

    id: int
    file: str
    size: tuple[int, int]
    caption: str
    concept: str


@dataclass(frozen=True, kw_only=True)
class Coco:
    """Pictures whose caption says a thing that is marked in them, each asked about in some ways.

    Attributes:
        folder: Holds `annotations/instances_<split>.json`, `annotations/captions_<split>.json` and the
            pictures in `<split>/`, as COCO is published.
        split: Such as "val2017".
        kinds: "describe" the picture; "draw" its caption; look at the picture and draw its caption "again".
        prompts: Kind -> what is said, where {caption} and {concept} may stand.
        concepts: COCO's things to look for; empty for all 80.
        least: Share of the picture that the thing must cover.
        limit: Pictures by chance; None for all.
        seed: Of that chance, and of what is drawn.

    Raises:
        ConfigError: a file is missing or no annotations, or a setting means nothing.
    """

    folder: str
    split: str = "val2017"
    kinds: tuple[str, ...] = ("describe", "draw")
    prompts: Mapping[str, str] = field(default_factory=dict)
    concepts: tuple[str, ...] = ()
    least: float = 0.02
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_asking(self.kinds, self.prompts, self.limit)
        if not 0 <= self.least < 1:
            raise ConfigError(f"data.source.least is a share of the picture, got {self.least}")
        if not self.pictures:
            raise ConfigError(
                f"data.source.folder={self.folder}: no caption of {self.split} says a thing that covers "
                f"{self.least:.0%} of its picture"
            )

    def __len__(self) -> int:
        return len(self.pictures) * len(self.kinds)

    def __getitem__(self, index: int) -> Item:
        place, way = divmod(index, len(self.kinds))
        picture, kind = self.pictures[place], self.kinds[way]
        concept = self._concepts[picture.concept]
        name = f"{picture.id:012d}"
        image, masks = None, None
        try:
            if kind != "draw":
                image = self._read(picture)
                masks = self.masks(picture)
        except InputError as error:
            sample = Sample(id=f"{name}-{kind}", concept=concept, caption=picture.caption)
            return Item(index=index, sample=sample, error=str(error))
        return ask(
            kind,
            index=index,
            name=name,
            image=image,
            caption=picture.caption,
            concept=concept,
            prompts=self.prompts,
            seed=self.seed,
            masks=masks,
        )

    def masks(self, picture: Picture) -> dict[str, NDArray[np.bool_]]:
        """Where each thing that is marked is in a picture, crowds included: name -> bool (H, W).

        Raises:
            InputError: a mask is damaged.
        """
        height, width = picture.size
        found: dict[str, NDArray[np.bool_]] = {}
        for name, mark in self._marks[picture.id]:
            mask = decode(mark.get("segmentation"), height=height, width=width)
            found[name] = mask | found[name] if name in found else mask
        return found

    @cached_property
    def pictures(self) -> list[Picture]:
        """The pictures asked about, in the order of their numbers."""
        try:
            found = self._all_pictures()
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ConfigError(
                f"data.source.folder={self.folder}: the annotations of {self.split} are not as COCO's: "
                f"{type(error).__name__} {error}"
            ) from error
        return [found[place] for place in subset(len(found), limit=self.limit, seed=self.seed)]

    def _all_pictures(self) -> list[Picture]:
        captions: dict[int, list[str]] = {}
        for entry in self._annotations("captions")["annotations"]:
            captions.setdefault(entry["image_id"], []).append(" ".join(entry["caption"].split()))
        mentions = Mentions(self._concepts, others=coco_concepts().values())
        found = []
        for image in sorted(self._instances["images"], key=lambda one: int(one["id"])):
            size = int(image["height"]), int(image["width"])
            shares: dict[str, float] = {}
            for name, mark in self._marks.get(image["id"], ()):
                shares[name] = shares.get(name, 0.0) + float(mark["area"]) / (size[0] * size[1])
            texts = captions.get(image["id"], ())
            said = [(shares.get(name, 0.0), name, text) for text in texts for name in mentions(text)]
            fitting = [one for one in said if one[0] >= self.least and one[0] > 0]
            if fitting:
                _, name, text = max(fitting, key=lambda one: one[0])  # by the first caption that says it
                found.append(Picture(int(image["id"]), str(image["file_name"]), size, text, name))
        return found

    @cached_property
    def _concepts(self) -> dict[str, Any]:
        return coco_concepts(self.concepts)

    @cached_property
    def _instances(self) -> dict[str, Any]:
        return self._annotations("instances")

    @cached_property
    def _marks(self) -> dict[int, list[tuple[str, Mapping[str, Any]]]]:
        """The name of each thing that is marked in a picture, with its annotation."""
        names = {entry["id"]: str(entry["name"]) for entry in self._instances["categories"]}
        marks: dict[int, list[tuple[str, Mapping[str, Any]]]] = {}
        for entry in self._instances["annotations"]:
            marks.setdefault(entry["image_id"], []).append((names[entry["category_id"]], entry))
        return marks

    def _annotations(self, what: str) -> dict[str, Any]:
        path = Path(self.folder).expanduser() / "annotations" / f"{what}_{self.split}.json"
        wanted: Sequence[str] = ("images", "annotations", *(("categories",) if what == "instances" else ()))
        try:
            found = json.loads(path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"data.source.folder={self.folder}: expected {path} as COCO publishes it "
                f"(https://cocodataset.org/#download): {error.strerror}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is no JSON: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(found.get(key), list) for key in wanted):
            raise ConfigError(f"{path}: expected COCO's annotations with {', '.join(wanted)}")
        return found

    def _read(self, picture: Picture) -> Any:
        folder = (Path(self.folder).expanduser() / self.split).resolve()
        path = (folder / picture.file).resolve()
        if not path.is_relative_to(folder):
            raise InputError(f"the picture {picture.file!r} leads out of {folder}")
        found = read_picture(path)
        if (found.height, found.width) != picture.size:
            raise InputError(
                f"{picture.file} is {found.width} x {found.height} pixels, its annotations are for "
                f"{picture.size[1]} x {picture.size[0]}: its masks would not fit"
            )
        return found
