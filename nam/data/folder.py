"""Prompts and pictures of one's own, from a CSV or JSONL file. A bad row becomes an item with an error."""

from __future__ import annotations

import csv
import difflib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nam.data.asking import check_limit, subset
from nam.data.concepts import concept_of
from nam.data.items import Item, modalities_of
from nam.errors import ConfigError, InputError
from nam.mllm.pictures import local_path, read_picture
from nam.types import Concept, Sample

log = logging.getLogger(__name__)

#: Columns that a file may have. A row needs a concept, and a prompt or an image.
COLUMNS = ("id", "prompt", "image", "concept", "forms", "modality", "start", "stop", "seed", "caption")

#: How alike two names are, from 0 to 1, above which one is taken for the other mistyped.
_ALIKE = 0.81


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The rows of a table as items.

    Attributes:
        table: A .csv file with a header, or a .jsonl file with an object a line. Columns: `id` (unique; the
            row's number where it is empty), `prompt`, `image` (a path inside the table's folder), `concept`,
            `forms` (other words for it, separated by "|", or a list), `modality` (text, image or both; audio,
            video, text+audio or text+video), `start` and `stop` (shares of a sound's or a video's time),
            `seed`, `caption`. Others are passed over, with a warning.
        limit: Rows by chance, in their order; None for all.
        seed: Of that chance, and of rows without one of their own; there the row's number is added.

    Raises:
        ConfigError: there is no such file, or it has another ending, is no text in UTF-8, has no column of
            concepts, one that comes twice, or one whose name is nearly that of a column that is not there; or
            the limit leaves nothing.
    """

    table: str
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_limit(self.limit)
        path = Path(self.table).expanduser()
        if path.suffix not in (".csv", ".jsonl"):
            raise ConfigError(f"data.source.table must be a .csv or .jsonl file, got {self.table!r}")
        if not path.is_file():
            raise ConfigError(f"data.source.table={self.table}: there is no such file")
        _ = self._rows

    @cached_property
    def _rows(self) -> list[Mapping[str, Any] | str]:
        """Every row, or why it cannot be read."""
        path = Path(self.table).expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigError(
                f"data.source.table={self.table}: line {line} is no text in UTF-8: save the table as UTF-8"
            ) from error
        except OSError as error:
            raise ConfigError(f"cannot read data.source.table={self.table}: {error}") from error
        try:
            rows = list(_csv(text) if path.suffix == ".csv" else _jsonl(text))
            if rows and all(isinstance(row, str) for row in rows):
                raise ConfigError(f"no row can be read; of the first, {rows[0]}")
            passed_over = _check_columns([row for row in rows if not isinstance(row, str)])
        except ConfigError as error:
            raise ConfigError(f"data.source.table={self.table}: {error}") from error
        if passed_over:
            log.warning("%s: these columns are passed over: %s", self.table, ", ".join(passed_over))
        return rows

    @cached_property
    def _places(self) -> list[int]:
        """The rows that are asked, by their place in the table."""
        return subset(len(self._rows), limit=self.limit, seed=self.seed)

    @cached_property
    def _firsts(self) -> dict[str, int]:
        """Where each id comes first."""
        firsts: dict[str, int] = {}
        for index, row in enumerate(self._rows):
            firsts.setdefault(_name(row, index), index)
        return firsts

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Item:
        place = self._places[index]
        row = self._rows[place]
        name = _name(row, place)
        if isinstance(row, str):
            return Item(index=index, sample=Sample(id=name), error=row)
        prompt, caption = _text(row.get("prompt")), _text(row.get("caption"))
        sample = Sample(id=name, prompt=prompt, caption=caption or None)
        try:
            _check_values(row)
            concept = _concept(row)
            sample = Sample(id=name, prompt=prompt, caption=caption or None, concept=concept)
            if self._firsts[name] != place:
                raise InputError(f"the id {name!r} stands in row {self._firsts[name] + 1} already")
            image, seed = self._picture(_text(row.get("image"))), _seed(row.get("seed"), self.seed + place)
            modalities = modalities_of(row.get("modality"))
            time = _share(row.get("start"), 0.0), _share(row.get("stop"), 1.0)
        except (InputError, ValueError) as error:
            return Item(index=index, sample=sample, error=str(error))
        whole = Sample(sample.id, prompt, image, seed, concept, sample.caption)
        return Item(index=index, sample=whole, modalities=modalities, time=time)

    def _picture(self, path: str) -> Any:
        if not path:
            return None
        folder = Path(self.table).expanduser().resolve().parent
        whole = (folder / local_path(path)).resolve()
        if not whole.is_relative_to(folder):
            raise InputError(f"the picture {path!r} leads out of the folder of {Path(self.table).name}")
        return read_picture(whole)


def _check_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names that mean nothing here.

    Raises:
        ConfigError: one is nearly the name of a column that its row has not, or no row can be used.
    """
    kinds = list(dict.fromkeys(tuple(row) for row in rows))
    for names in kinds:
        for name in names:
            found = difflib.get_close_matches(str(name).strip().lower(), COLUMNS, n=1, cutoff=_ALIKE)
            if name not in COLUMNS and found and found[0] not in names:
                raise ConfigError(f"unknown column {name!r}: did you mean {found[0]!r}?")
    there = {name for names in kinds for name in names}
    if rows and not ("concept" in there and {"prompt", "image"} & there):
        missing = "'prompt' or 'image'" if "concept" in there else "'concept'"
        listed = ", ".join(sorted(map(repr, there)))
        raise ConfigError(f"there is no column {missing}" + (f", but {listed}" if listed else ""))
    return sorted(name for name in there if name and name not in COLUMNS)


def _check_values(row: Mapping[str, Any]) -> None:
    """Refuse what is no word or number. Raises InputError."""
    for name in COLUMNS:
        value = row.get(name)
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InputError(f"{name} holds half of a character (a lone surrogate), which is no text")
        if isinstance(value, dict) or (isinstance(value, list) and name != "forms"):
            raise InputError(f"{name} must be a word or a number, got {type(value).__name__} {value!r:.60}")


def _csv(text: str) -> Iterator[Mapping[str, Any] | str]:
    """Rows of a CSV. Raises ConfigError where it is none: an open quote would swallow the rows behind it."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = list(reader.fieldnames or ())
        other = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
        if other:
            raise ConfigError(f"columns are separated by commas, not by {other!r}")
        twice = [name for name in COLUMNS if names.count(name) > 1]
        if twice:
            raise ConfigError(f"there are {names.count(twice[0])} columns {twice[0]!r}")
        for row in reader:
            extra = row.pop(None, None)
            yield "the row has more fields than the header" if extra else row
    except csv.Error as error:
        raise ConfigError(f"it is no CSV behind line {reader.line_num}: {error}") from error


def _jsonl(text: str) -> Iterator[Mapping[str, Any] | str]:
    for line in text.split("\n"):  # str.splitlines also ends lines at characters that JSON may hold
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"the line is no JSON: {error}"
            continue
        yield row if isinstance(row, dict) else f"expected a JSON object, got {type(row).__name__}"


def _name(row: Mapping[str, Any] | str, index: int) -> str:
    return ("" if isinstance(row, str) else _text(row.get("id"))) or f"row-{index + 1}"


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _concept(row: Mapping[str, Any]) -> Concept:
    given = row.get("forms")
    forms = given if isinstance(given, list) else _text(given).split("|")
    return concept_of(_text(row.get("concept")), [text for form in forms if (text := _text(form))])


def _share(value: Any, default: float) -> float:
    if _text(value) == "":
        return default
    try:
        return float(_text(value))
    except ValueError as error:
        raise InputError(f"start and stop must be shares of the whole, from 0 to 1, got {value!r}") from error


def _seed(value: Any, default: int) -> int:
    if _text(value) == "":
        return default
    try:
        number = float(_text(value))  # a column with gaps becomes 5.0 in many a tool
        found = int(number) if number.is_integer() and abs(number) < 2**53 else int(_text(value))
    except ValueError as error:
        raise InputError(f"the seed must be a whole number, got {value!r}") from error
    if found < 0:
        raise InputError(f"the seed must be at least 0, got {value!r}")
    return found
