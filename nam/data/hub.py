"""A data set of the Hugging Face hub by its name; needs the package `datasets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from nam.data.asking import Mentions, ask, check_asking, coco_concepts, subset
from nam.data.concepts import concept_of
from nam.data.items import Item
from nam.errors import ConfigError, InputError, first_line, nearest
from nam.mllm.pictures import read_picture
from nam.types import Concept, Sample

#: What a column may be read as.
ROLES = ("image", "caption", "concept", "id")

#: Rows of a stream among which the next one is drawn by chance.
_BUFFER = 1000


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """Captioned pictures of a data set, each asked about in some ways.

    Attributes:
        name: On the hub ("nlphuji/flickr30k"), or a folder that `datasets` reads.
        config: Of a data set that has several; None for its own default.
        split: Such as "test".
        revision: Branch, tag or commit; None for the main branch.
        streaming: Read rows as they are needed, without downloading the rest; needs `limit`.
        columns: What the columns are called: `image` and `caption` at least (a caption of several is its
            first), `concept` and `id` where there are such.
        concepts: Things to look for in captions, where there is no column of concepts: COCO's, or words of
            one's own; empty for COCO's 80. A caption that says none is a row with an error.
        kinds, prompts: As in `nam.data.coco.Coco`.
        limit: Rows by chance; None for all.
        seed: Of that chance, and of what is drawn.

    Raises:
        ConfigError: `datasets` is not installed, there is no such data set or column, or a setting means
            nothing.
    """

    name: str
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    streaming: bool = False
    columns: Mapping[str, str] = field(default_factory=lambda: {"image": "image", "caption": "caption"})
    concepts: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("describe", "draw")
    prompts: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_asking(self.kinds, self.prompts, self.limit)
        for role in self.columns:
            if role not in ROLES:
                raise ConfigError(f"data.source.columns.{role} is unknown ({nearest(str(role), ROLES)})")
        for role in ("image", "caption"):
            if not self.columns.get(role):
                raise ConfigError(f"data.source.columns.{role} must name a column")
        if self.streaming and self.limit is None:
            raise ConfigError("data.source.streaming=true needs data.source.limit: a stream has no length")

    @cached_property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The rows asked about; a stream's are kept, so that they are the same every time."""
        found = self._load()
        there = found.column_names
        for role, name in self.columns.items():
            if name and there is not None and name not in there:
                raise ConfigError(
                    f"data.source.columns.{role}={name}: no such column ({nearest(name, there)})"
                )
        if self.streaming:
            try:
                return list(islice(found.shuffle(seed=self.seed, buffer_size=_BUFFER), self.limit))
            except Exception as error:  # of the network, and of decoders of pictures
                raise ConfigError(
                    f"data.source.name={self.name}: a row of the stream cannot be read "
                    f"({first_line(error)}): set "
                    "data.source.streaming=false, where such a row is passed over with its reason"
                ) from error
        chosen: Sequence[Mapping[str, Any]] = found.select(
            subset(len(found), limit=self.limit, seed=self.seed)
        )
        return chosen

    def __len__(self) -> int:
        return len(self.rows) * len(self.kinds)

    def __getitem__(self, index: int) -> Item:
        place, way = divmod(index, len(self.kinds))
        rows, kind = self.rows, self.kinds[way]
        name, caption, concept = f"row-{place + 1}", "", None
        try:
            row = _read(rows, place)
            given = self._value(row, "id")
            name = name if given is None or given == "" else str(given)
            caption = _text(self._value(row, "caption"))
            concept = self._concept(row, caption)
            image = None if kind == "draw" else self._picture(self._value(row, "image"))
        except InputError as error:
            sample = Sample(id=f"{name}-{kind}", concept=concept, caption=caption or None)
            return Item(index=index, sample=sample, error=str(error))
        return ask(
            kind,
            index=index,
            name=name,
            image=image,
            caption=caption,
            concept=concept,
            prompts=self.prompts,
            seed=self.seed,
        )

    def _load(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise ConfigError(
                "data=hf needs the package datasets: pip install 'nam-mllm[hf]' (or pip install datasets)"
            ) from error
        try:
            return datasets.load_dataset(
                self.name,
                self.config,
                split=self.split,
                revision=self.revision,
                streaming=self.streaming,
            )
        except Exception as error:  # no network, a wrong name, split or config surface as many types
            raise ConfigError(
                f"data.source.name={self.name}, split={self.split}: {first_line(error)}"
            ) from error

    def _value(self, row: Mapping[str, Any], role: str) -> Any:
        name = self.columns.get(role)
        return row.get(name) if name else None

    @cached_property
    def _mentions(self) -> Mentions:
        known = coco_concepts()
        wanted = {name: known.get(name) or concept_of(name) for name in self.concepts} or known
        return Mentions(wanted, others=known.values())

    def _concept(self, row: Mapping[str, Any], caption: str) -> Concept:
        if self.columns.get("concept"):
            return concept_of(_text(self._value(row, "concept")))
        said = self._mentions(caption)
        if not said:
            raise InputError(f"the caption says none of the things to look for: {caption[:80]!r}")
        return self._mentions.concepts[said[0]]

    @staticmethod
    def _picture(value: Any) -> Any:
        """A decoded picture; a path is none, for a row may come from anywhere."""
        if value is None or isinstance(value, str):
            raise InputError("the row has no picture")
        return read_picture(value)


def _read(rows: Sequence[Mapping[str, Any]], place: int) -> Mapping[str, Any]:
    """A row, whose picture the package decodes. Raises InputError where it cannot."""
    try:
        return rows[place]
    except Exception as error:  # a decoder may raise anything where a picture is damaged
        raise InputError(f"the row cannot be read: {first_line(error)}") from error


def _text(value: Any) -> str:
    first = value[0] if isinstance(value, list | tuple) and value else value
    text = " ".join(str(first or "").split())
    if not text:
        raise InputError("the row has no caption, or no concept where one is asked for")
    return text
