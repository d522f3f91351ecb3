"""Semantic relevance: whether what the top neurons write fits what was seen, drawn and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nam.checks import whole
from nam.errors import ConfigError, InputError, ModelError
from nam.evaluate.bertscore import load_bertscore
from nam.evaluate.bleurt import load_bleurt
from nam.evaluate.captioner import Captioner, load_captioner
from nam.evaluate.checkpoints import find_checkpoint
from nam.evaluate.clipscore import load_clipscore
from nam.evaluate.leaderboard.base import Bench, Part
from nam.evaluate.leaderboard.cases import Case
from nam.evaluate.leaderboard.table import NO_REGION, Figure
from nam.evaluate.moverscore import load_moverscore
from nam.evaluate.scene_similarity import load_scene_similarity
from nam.evaluate.semantic import PictureMeasure, TextMeasure, semantic_relevance
from nam.mllm.words import WordBook
from nam.types import Sample


@dataclass(frozen=True, kw_only=True)
class Meaning(Part):
    """Agreement of the words of each method's top neurons with pictures and captions (paper, table 2).

    "in" is what was asked about: the picture that came in, if any did, and the caption of the request; "out"
    is the picture that was drawn and a caption of it, the model's own unless `captioner` names another.

    Attributes:
        prompts: Of each modality; None for all.
        k: Neurons of each method.
        words: Of each neuron.
        clip: Checkpoint of CLIPScore; None to do without. "tiny_gill" stands for what the package ships.
        bert: Of BERTScore.
        mover: Of MoverScore, whose cost is a transport problem for each neuron.
        bleurt: Of BLEURT, a published port.
        similarity: Of the scenes' own learned similarity.
        captioner: A captioning model for the pictures that were drawn, such as
            "Salesforce/blip-image-captioning-large"; None for the model itself.
        device: Where all of these run.
    """

    notes: ClassVar = dict.fromkeys(
        ("clipscore", "bertscore", "moverscore", "bleurt", "scene_similarity"),
        "comparable with the paper's figure only where the checkpoint is a published one",
    )

    prompts: int | None = 13
    k: int = 10
    words: int = 5
    clip: str | None = "tiny_gill"
    bert: str | None = "tiny_gill"
    mover: str | None = "tiny_gill"
    bleurt: str | None = None
    similarity: str | None = "tiny_gill"
    captioner: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("k", "words"):
            whole(f"evaluate.parts.semantic.{name}", getattr(self, name), least=1, error=ConfigError)

    def check(self, methods: Sequence[str]) -> None:
        for name in ("clip", "bert", "mover", "bleurt", "similarity"):
            checkpoint = getattr(self, name)
            if not checkpoint:
                continue
            try:
                find_checkpoint(checkpoint)
            except ModelError as error:
                raise ConfigError(f"evaluate.parts.semantic.{name}={checkpoint}: {error}") from error

    def measure(self, bench: Bench) -> list[Figure]:
        book = WordBook(bench.mllm, count=self.words)
        pictures = [load_clipscore(self.clip, device=self.device)] if self.clip else []
        texts: list[TextMeasure] = []
        if self.bert:
            texts.append(load_bertscore(self.bert, device=self.device))
        if self.mover:
            texts.append(load_moverscore(self.mover, device=self.device))
        if self.bleurt:
            texts.append(load_bleurt(self.bleurt, device=self.device))
        if self.similarity:
            texts.append(load_scene_similarity(self.similarity, device=self.device))
        captioner = load_captioner(self.captioner, device=self.device) if self.captioner and texts else None
        found = []
        for modality in ("text", "image"):
            cases = bench.chosen(modality, self.prompts)
            advance = bench.tell(f"semantic relevance: {modality}", len(cases))
            for case in cases:
                found += self._case(bench, case, book, pictures, texts, captioner)
                advance(1)
        return found

    def _case(
        self,
        bench: Bench,
        case: Case,
        book: WordBook,
        picture_measures: Sequence[PictureMeasure],
        text_measures: Sequence[TextMeasure],
        captioner: Captioner | None,
    ) -> list[Figure]:
        item, answer = case.work.item, case.work.answer
        shown = {"in": item.sample.image, "out": answer.image}
        pictures = {role: picture for role, picture in shown.items() if picture is not None}
        said = {"in": item.sample.caption, "out": _caption(bench, case, captioner)}
        captions = {role: caption for role, caption in said.items() if caption}
        methods = [name for name in bench.attributor.methods if case.own(name) is not None]
        tops = [case.ranking(name, self.k) for name in methods]
        words = [", ".join(some) for ranking in tops for some in book(ranking)]
        measured = semantic_relevance(
            words,
            pictures=pictures,
            captions=captions,
            picture_measures=picture_measures,
            text_measures=text_measures,
        )
        found = []
        for measure, values in measured.items():
            parts = values.split([len(ranking) for ranking in tops])
            for name, part in zip(methods, parts, strict=True):
                region = "mask" if (name, "mask") in case.scores else NO_REGION
                value = float(np.nanmean(part.numpy())) if part.isfinite().any() else float("nan")
                found.append(Figure(case.id, case.concept.name, name, case.modality, region, measure, value))
        return found


def _caption(bench: Bench, case: Case, captioner: Captioner | None) -> str | None:
    """A caption of what was drawn; None without a picture, or where the model cannot look at one."""
    image = case.work.answer.image
    if image is None:
        return None
    if captioner is not None:
        return captioner([image])[0] or None
    asked = Sample(id=case.id, prompt="a picture of", image=image)
    try:
        (found,) = bench.mllm.generate_batch([asked], draw=False)
    except InputError:
        return None
    return found.text or None
