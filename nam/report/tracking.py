"""A finished run in the experiment trackers: scalars, top neurons, overlays, histograms and its files."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from PIL import Image

from nam.errors import NamError
from nam.mllm.pictures import read_picture
from nam.report.figures import layer_counts, top_sizes
from nam.report.overlays import overlay
from nam.report.pages import REPORT_FILE
from nam.store import Run
from nam.store.files import CONFIG_FILE
from nam.store.schema import MANIFEST_FILE, METRICS_FILE, NEURONS_FILE, SAMPLES_FILE, SCORES_FILE

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger(__name__)

#: Most pictures that are sent to a tracker.
PICTURES = 24

#: What a run's artifact holds: report, tables and provenance.
FILES = (REPORT_FILE, SAMPLES_FILE, NEURONS_FILE, SCORES_FILE, METRICS_FILE, MANIFEST_FILE, CONFIG_FILE)


class Tracker(Callback):
    """Logs how far a predict loop is: samples done, with errors, and the seconds of each stage, all of the
    first process. The module has a `clock`, and gives `SampleResult`s."""

    def __init__(self) -> None:
        self._done = self._failed = 0

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._done += len(outputs)
        self._failed += sum(bool(result.errors) for result in outputs)
        seconds: Any = getattr(pl_module.clock, "seconds", {})
        so_far = {"samples": self._done, "errors": self._failed, "seconds": dict(seconds)}
        scalars = dict(flat(so_far, "progress/"))
        for logger in trainer.loggers:
            with forgiven(logger):
                logger.log_metrics(scalars, step=batch_idx)


def track(
    loggers: Sequence[Logger],
    run: Run,
    *,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    tops: DataFrame,
) -> None:
    """Send a run to every logger; one that fails is left with a warning, since the run folder holds it all.

    Args:
        loggers: Of Lightning.
        run: The finished run.
        settings: Its resolved configuration.
        metrics: What metrics.json holds; nested names are joined by "/".
        tops: As `nam.report.tops.top_neurons` gives them.
    """
    scalars = dict(flat(metrics))

    def to_wandb(logger: WandbLogger) -> None:
        files = [run.folder / name for name in FILES if (run.folder / name).is_file()]
        log_artifact(logger, f"attribution-{run.folder.name}", kind="attribution", files=files, about=scalars)
        _run_to_wandb(logger, run=run, tops=tops)

    send(loggers, settings, scalars, to_wandb)


def track_leaderboard(
    loggers: Sequence[Logger], table: DataFrame, figure: Path | None, *, settings: Mapping[str, Any]
) -> None:
    """Send a leaderboard to every logger, as `track` does.

    Args:
        loggers: Of Lightning.
        table: Columns modality, method, region, measure, value; a scalar for each row.
        figure: The picture of it; None without one.
        settings: The resolved configuration.
    """
    names = table["modality"] + "/" + table["method"] + "/" + table["region"] + "/" + table["measure"]
    scalars = {name: value for name, value in zip(names, table["value"], strict=True) if np.isfinite(value)}

    def to_wandb(logger: WandbLogger) -> None:
        logger.log_table("leaderboard", dataframe=table)
        if figure is not None:
            logger.log_image("leaderboard figure", [Image.open(figure)])

    send(loggers, settings, scalars, to_wandb)


def send(
    loggers: Sequence[Logger],
    settings: Mapping[str, Any],
    scalars: dict[str, float],
    to_wandb: Callable[[WandbLogger], None],
) -> None:
    """Send settings and scalars to every logger, and end it; one that fails is left with a warning.

    Args:
        loggers: Of Lightning.
        settings: The resolved configuration.
        scalars: By name.
        to_wandb: Sends what W&B alone takes.
    """
    for logger in loggers:
        with forgiven(logger):
            logger.log_hyperparams(dict(settings))
            logger.log_metrics(scalars)
            if isinstance(logger, WandbLogger):
                to_wandb(logger)
            logger.save()
            logger.finalize("success")


def log_artifact(
    logger: WandbLogger, name: str, *, kind: str, files: Iterable[Path], about: Mapping[str, float]
) -> None:
    """Send files to W&B, from where they lie: they are not copied, and must stay until they are uploaded.

    Args:
        logger: Of W&B.
        name: Of the artifact; what W&B does not allow in a name becomes "-".
        kind: Its type.
        files: Each under its own name.
        about: What is known of it.
    """
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:128], type=kind, metadata=dict(about))
    for path in files:
        artifact.add_file(str(path.resolve()), policy="immutable", skip_cache=True)
    logger.experiment.log_artifact(artifact)


@contextmanager
def forgiven(logger: Logger) -> Iterator[None]:
    """A tracker that cannot be reached raises anything, and never ends a run."""
    try:
        yield
    except Exception as error:
        log.warning("%s could not take the results: %s", type(logger).__name__, error)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested mapping, with names joined by "/".

    >>> dict(flat({"seconds": {"run": 2.0}, "model": "x"}))
    {'seconds/run': 2.0}
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)


def _run_to_wandb(logger: WandbLogger, *, run: Run, tops: DataFrame) -> None:
    import wandb

    logger.log_table("top_neurons", dataframe=tops)
    pictures, captions = _overlays(run)
    if pictures:
        logger.log_image("overlays", pictures, caption=captions)
    histograms: dict[str, Any] = {}
    for concept, modality, method in run.keys:
        scores = run.scores(concept, modality, method).scores
        histograms[f"scores/{method}/{modality}/{concept}"] = wandb.Histogram(scores.reshape(-1).tolist())
    histograms |= {f"layers/{name}": _bars(counts) for name, counts in _layers(run).items()}
    logger.experiment.log(histograms)


def _overlays(run: Run) -> tuple[list[Image.Image], list[str]]:
    """The first drawn pictures of every concept in turn, with the region marked, and what was asked."""
    rows = run.samples[run.samples["image_status"] == "ok"]
    rows = rows.assign(turn=rows.groupby("concept").cumcount()).sort_values("turn", kind="stable")
    pictures, captions = [], []
    for row in rows.head(PICTURES).to_dict("records"):
        try:
            picture, mask = (read_picture(run.image(row[key])) for key in ("picture", "mask"))
        except NamError as error:
            log.warning("a picture of %s is left out: %s", row["id"], error)
            continue
        pictures.append(overlay(picture, np.asarray(mask.convert("L")) > 127))
        captions.append(f"{row['concept']}: {row['prompt']}")
    return pictures, captions


def _layers(run: Run) -> dict[str, np.ndarray[Any, Any]]:
    """In which layers the top T- and I-neurons of all concepts are, by method and kind."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    pairs = {(concept, method) for concept, _, method in run.keys}
    for concept, method in sorted(pairs):
        if not {(concept, "text", method), (concept, "image", method)} <= set(run.keys):
            continue
        text, image = (run.scores(concept, modality, method) for modality in ("text", "image"))
        for kind, counts in layer_counts(text, image, top=top_sizes(text.scores.size)[-1]).items():
            key = f"{method}/{kind}"
            found[key] = found.get(key, np.zeros_like(counts)) + counts
    return found


def _bars(counts: np.ndarray[Any, Any]) -> Any:
    import wandb

    return wandb.Histogram(np_histogram=(counts, np.arange(len(counts) + 1) - 0.5))
