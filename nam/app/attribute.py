"""`attribute.py`: which neurons make the model say a concept, and which make it draw it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from nam.app.attributor import attributor_of
from nam.app.build import build, build_all
from nam.app.callbacks import EndOnTerm, Progress
from nam.app.closing import print_closing
from nam.app.command import FAILED, INTERRUPTED, TERMINATED, command
from nam.app.config import claim_run_folder, rank
from nam.app.quiet import hush, say
from nam.app.resuming import done_of, only_report_left, refuse_other_data, refuse_other_job
from nam.app.settings import SETTLED, check_attribution
from nam.app.totals import RunTotals, metrics_of
from nam.errors import ConfigError
from nam.report.pages import REPORT_FILE
from nam.store.schema import METRICS_FILE

if TYPE_CHECKING:
    from pandas import DataFrame

    from nam.app.totals import Totals
    from nam.mllm.base import MLLM
    from nam.modules.attribution import AttributionModule
    from nam.segmenter.base import Segmenter
    from nam.store.callback import StoreWriter


@command("attribute", check=refuse_other_job)
def main(cfg: DictConfig) -> Path:
    """Attribute every sample of `cfg.data`. Returns the path of the report; the exit code is 1 where not a
    single sample could be attributed."""
    hush()
    check_attribution(cfg)
    if cfg.aggregate is not None:
        from nam.app import aggregate

        return aggregate.run(cfg)
    if cfg.estimate:
        from nam.app import estimate

        return estimate.run(cfg)
    if cfg.get("evaluate") is not None:
        from nam.app import leaderboard, named

        return named.run(cfg) if cfg.evaluate["_target_"] == named.TARGET else leaderboard.run(cfg)
    if only_report_left(cfg):
        return _report_late(cfg)
    started = time.perf_counter()
    data = build(cfg.data)
    if cfg.resume and rank() == 0:
        refuse_other_data(cfg.run_dir, data.source)
    module = module_of(cfg)
    from nam.hooks.callback import ActivationRecorder
    from nam.report.tracking import Tracker

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    writer = writer_of(cfg, module)
    callbacks: list[L.Callback] = [writer, Progress(), Tracker(), EndOnTerm()]
    if cfg.record:
        callbacks.append(ActivationRecorder())
    writer.check(rank=rank())
    loggers = build_all(cfg.logger)  # they write into the run folder
    trainer: L.Trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers)
    claim_run_folder(cfg, settled=SETTLED)
    if cfg.resume:
        data.done = done_of(cfg.run_dir)
    predict(trainer, module, data, cfg.run_dir)
    totals = _totals(module, trainer)
    if not trainer.is_global_zero:
        writer.close()
    trainer.strategy.barrier("written")
    if trainer.is_global_zero:
        metrics = metrics_of(cfg.run_dir, totals, seconds=time.perf_counter() - started)
        with Console().status("writing tables and report"):
            tops = _finish(cfg, writer, metrics, loggers)
        print_closing(cfg.run_dir, tops, top=3)
    trainer.strategy.barrier("finished")
    if trainer.is_global_zero:
        fail_without_scores(cfg.run_dir)
    return Path(cfg.run_dir, REPORT_FILE)


def manifest_of(
    cfg: DictConfig, mllm: MLLM, methods: list[str], *, segmenter: Segmenter | None = None
) -> dict[str, Any]:
    """What is known when a run starts, for manifest.json; of `segmenter`, which weights it has."""
    from nam.mllm.fingerprint import digest_at, fingerprint, part_digests
    from nam.store import run_manifest

    sites, origin = mllm.ffn_sites, segmenter and segmenter.origin
    chosen = {key: str(cfg[key]["_target_"]).rpartition(".")[2] for key in ("segmenter", "relevance")}
    return run_manifest(
        model=mllm.name,
        revision=fingerprint(mllm),
        parts=part_digests(mllm) | ({"segmenter": digest_at(origin)} if origin else {}),
        seed=cfg.seed,
        layers=len(sites),
        units=sites[0].width,
        settings={"methods": methods, **chosen, "overrides": list(cfg.overrides)},
    )


def module_of(cfg: DictConfig) -> AttributionModule:
    """The model, and all that is done with its answers."""
    attributor = attributor_of(cfg)
    from nam.modules.attribution import AttributionModule

    return AttributionModule(attributor)


def fail_without_scores(folder: str) -> None:
    """End a run that has come to its end without a single score, with its most frequent reason."""
    from nam.report.html import error_views
    from nam.store import Run

    run = Run(folder)
    reasons = error_views(run)
    if reasons and not run.samples["neurons"].any():
        most = f"most often: {reasons[0].reason}"
        say(f"error: none of {len(run.samples)} samples could be attributed; {most}", error=True)
        raise SystemExit(FAILED)


def writer_of(cfg: DictConfig, module: AttributionModule) -> StoreWriter:
    """What writes into the run folder."""
    from nam.mllm.words import WordBook
    from nam.store.callback import StoreWriter

    return StoreWriter(
        folder=cfg.run_dir,
        manifest=manifest_of(
            cfg, module.mllm, list(module.attributor.methods), segmenter=module.attributor.segmenter
        ),
        words=WordBook(module.mllm, count=cfg.words),
        top=cfg.top,
        write_interval=cfg.write_interval,
        resume=cfg.resume is not None,
    )


def _totals(module: AttributionModule, trainer: L.Trainer) -> Totals:
    """What every process measured; every process has to ask."""
    from nam.store import peak_memory

    totals = RunTotals().to(trainer.strategy.root_device)
    totals.update(module.clock, peak_memory())
    return totals.compute()


def predict(trainer: L.Trainer, module: AttributionModule, data: Any, folder: str) -> None:
    """Run the predict loop. Raises ConfigError, and SystemExit where it is interrupted, after a line."""
    try:
        trainer.predict(module, datamodule=data, return_predictions=False)
    except MisconfigurationException as error:  # such as a share of the batches that is less than one
        raise ConfigError(f"trainer: {error}") from error
    except SystemExit as stop:  # Lightning's answer to Ctrl-C, ours to SIGTERM
        killed = isinstance(stop, SIGTERMException)
        word, code = ("terminated", TERMINATED) if killed else ("interrupted", INTERRUPTED)
        if trainer.is_global_zero:
            say(f"{word}: what was finished can be read in {folder}; go on with resume={folder}", error=True)
        raise SystemExit(code) from stop


def _finish(cfg: DictConfig, writer: StoreWriter, metrics: dict[str, Any], loggers: list[Any]) -> DataFrame:
    """Merge the tables, then write and track what follows from them. Returns the top neurons."""
    from nam.store.provenance import now

    costs = {key: metrics.get(key) for key in ("seconds", "time_over_generation", "peak_memory")}
    writer.finish(metrics=metrics, finished=now(), **costs)
    return _publish(cfg, metrics, loggers)


def _report_late(cfg: DictConfig) -> Path:
    """The report of a run that was interrupted between its tables and it; the first process writes it."""
    from nam.report.pages import REPORT_FILE
    from nam.store import Run
    from nam.store.writer import drop_shards

    if rank() == 0:
        drop_shards(Path(cfg.run_dir))
        with Console().status("writing the report"):
            tops = _publish(cfg, Run(cfg.run_dir).metrics, build_all(cfg.logger))
        print_closing(cfg.run_dir, tops, top=3)
        fail_without_scores(cfg.run_dir)
    return Path(cfg.run_dir, REPORT_FILE)


def _publish(cfg: DictConfig, metrics: dict[str, Any], loggers: list[Any]) -> DataFrame:
    """Write and track what follows from the tables of a finished run. Returns the top neurons."""
    from nam.report.tracking import track
    from nam.store import Run

    tops = report_on(cfg, metrics)
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    track(loggers, Run(cfg.run_dir), settings=settings, metrics=metrics, tops=tops)
    return tops


def report_on(cfg: DictConfig, metrics: dict[str, Any]) -> DataFrame:
    """Write the report of a finished run, and its metrics with what follows. Returns the top neurons."""
    from nam.report import build_report
    from nam.report.tops import own_words, top_neurons
    from nam.store import Run
    from nam.store.files import write_json

    run = Run(cfg.run_dir)
    tops = top_neurons(run, top=cfg.report.top)
    metrics["own_words"] = own_words(run, tops)
    write_json(run.folder / METRICS_FILE, metrics)
    build_report(run, top=cfg.report.top, samples=cfg.report.samples, tops=tops)
    return tops
