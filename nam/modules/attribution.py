"""The LightningModule of the main job: items in, what was found about each out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lightning as L

from nam.attribution import Attributor, Work
from nam.clock import Clock
from nam.data.items import Item
from nam.hooks import Recorder
from nam.mllm.pictures import read_picture
from nam.store.rows import SampleResult

#: Longest side of a picture that was asked about, as the run folder keeps it.
KEPT_SIDE = 512


class AttributionModule(L.LightningModule):
    """Wraps a frozen model; `trainer.predict` does the rest (with `inference_mode=False`).

    `record` is set by `nam.hooks.callback.ActivationRecorder`; `clock` holds the time of each stage.

    Args:
        attributor: What is done with a batch of items; its model becomes this module's child.
    """

    def __init__(self, attributor: Attributor) -> None:
        super().__init__()
        self.attributor = attributor
        self.mllm = attributor.mllm
        self.record: Callable[[], Recorder] | None = None
        self.clock = Clock()

    def predict_step(self, batch: Sequence[Item], batch_idx: int) -> list[SampleResult]:
        """What was found about each item; what failed is in its errors."""
        return [result_of(work) for work in self.attributor(batch, record=self.record, clock=self.clock)]


def result_of(work: Work) -> SampleResult:
    """A finished item, ready for the run folder."""
    sample, out = work.item.sample, work.generation
    said = work.words or out
    asked = None
    if sample.image is not None and "" not in work.errors:
        asked = read_picture(sample.image)
        asked.thumbnail((KEPT_SIDE, KEPT_SIDE))
    norms = None if work.gradient is None else work.gradient.norm(dim=1).tolist()
    return SampleResult(
        index=work.item.index,
        id=sample.id,
        concept=sample.concept,
        prompt=sample.prompt or (out.prompt if out else ""),
        text=said.text if said else "",
        seed=sample.seed,
        input=asked,
        picture=out.image if out else None,
        sound=out.sound if out else None,
        mask=work.mask.pixels if work.mask else None,
        mask_score=work.mask.score if work.mask else None,
        relevance=None if norms is None else tuple(norms),
        scores=tuple(work.scores),
        asked=work.item.modalities,
        errors=tuple(work.errors.items()),  # type: ignore[arg-type]
    )
