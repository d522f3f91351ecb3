"""`attribute.py estimate=true`: the time, memory and disk that a run would need, from a few batches."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from nam.app.build import build
from nam.app.callbacks import Progress
from nam.app.forecast import Estimate, Extent, Sizes, Tried, forecast
from nam.app.quiet import say
from nam.errors import ConfigError

if TYPE_CHECKING:
    from nam.data.items import Source
    from nam.store.callback import StoreWriter

#: The result, in the run folder.
FILE = "estimate.json"

#: Batches that are timed, after one that warms up.
BATCHES = 4

#: Samples that are read, though not attributed, to see which concepts there are.
CENSUS = 256


class Times(L.Callback):
    """Reads the clocks when a predict loop starts and after each batch; put it behind what writes results."""

    def __init__(self) -> None:
        self.read: list[NDArray[np.float64]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.read.append(clocks())

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.read.append(clocks())


def clocks() -> NDArray[np.float64]:
    """Seconds, each from a start of its own: on the wall, and of this process's processors."""
    return np.array([time.perf_counter(), time.process_time()])


def run(cfg: DictConfig) -> Path:
    """Attribute a few batches of `cfg.data`, in a folder that is then removed. Returns the estimate's path.

    Raises:
        ConfigError: `cfg.evaluate` is set, nothing is left to do, or a launcher started several processes.
    """
    started = clocks()
    if cfg.get("evaluate") is not None:
        raise ConfigError("estimate=true is for runs that attribute: leave evaluate out")
    from nam.app.attribute import module_of
    from nam.app.resuming import done_of
    from nam.store.files import write_json

    data = build(cfg.data)
    done = done_of(cfg.run_dir) if cfg.resume else frozenset()
    left = [index for index in range(len(data.source)) if index not in done]
    processes, batches = _extent(cfg, left, data.batch_size)
    if not batches:
        raise ConfigError(f"nothing is left to do: all {len(data.source)} samples are attributed")
    chosen = choose(len(batches), seed=cfg.seed)
    tried_on = [index for number in chosen for index in batches[number]]
    module = module_of(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data.done = frozenset(range(len(data.source))) - set(tried_on)
    with tempfile.TemporaryDirectory(dir=cfg.run_dir, prefix=".estimate-") as folder:
        sizes = [len(batches[number]) for number in chosen]
        tried = _try(cfg, module, data, Path(folder), started=started, sizes=sizes)
    samples = min(len(left), processes * sum(map(len, batches)))
    census = left[:: max(1, math.ceil(len(left) / CENSUS))]
    extent = Extent(
        samples=samples,
        share=sum(map(len, batches)),
        processes=processes,
        flushes=math.ceil(len(batches) / cfg.write_interval),
        **_asked(data.source, census, scale=samples / len(census), shown=cfg.report.samples),
    )
    tried_extent = _asked(data.source, tried_on, scale=1.0, shown=cfg.report.samples)
    found = forecast(tried, extent, tried_pairs=tried_extent["pairs"], tried_shown=tried_extent["shown"])
    write_json(Path(cfg.run_dir, FILE), asdict(found))
    _print(found, Path(cfg.run_dir, FILE))
    return Path(cfg.run_dir, FILE)


def choose(batches: int, *, seed: int) -> list[int]:
    """The batches that are tried, in order: the first warms up, the others are spread over the run.

    Args:
        batches: That the run has.
        seed: Of the choice, which is random, since what is asked may repeat itself.
    """
    if batches <= BATCHES + 1:
        return list(range(batches))
    edges = np.linspace(1, batches, BATCHES + 1).astype(int)
    rng = np.random.default_rng(seed)
    return [0, *(int(rng.integers(*edges[part : part + 2])) for part in range(BATCHES))]


def _extent(cfg: DictConfig, left: Sequence[int], size: int) -> tuple[int, list[Sequence[int]]]:
    """The number of processes, and the batches of the first."""
    trainer: L.Trainer = build(cfg.trainer, callbacks=[], logger=False)
    processes = trainer.num_devices * trainer.num_nodes
    launcher = getattr(trainer.strategy, "cluster_environment", None)
    if processes > 1 and launcher is not None and launcher.creates_processes_externally:
        raise ConfigError(
            "estimate=true runs in one process and reckons with trainer.devices and trainer.num_nodes: "
            "start it without torchrun or srun"
        )
    mine = left[::processes]
    batches = [mine[first : first + size] for first in range(0, len(mine), size)]
    limit = cfg.trainer.get("limit_predict_batches", 1.0)
    most = int(limit * len(batches)) if isinstance(limit, float) else limit
    return processes, batches[:most]


def _asked(source: Source, indices: Sequence[int], *, scale: float, shown: int) -> dict[str, int]:
    """Pairs of concept and modality, and samples that a report shows, reckoned from some samples."""
    items = [item for item in (source[index] for index in indices) if item.sample.concept is not None]
    names = Counter(item.sample.concept.name for item in items if item.sample.concept is not None)
    pairs = {
        (item.sample.concept.name, modality)
        for item in items
        if item.sample.concept is not None
        for modality in item.modalities
    }
    return {"pairs": len(pairs), "shown": sum(min(shown, round(scale * count)) for count in names.values())}


def _try(
    cfg: DictConfig, module: Any, data: Any, folder: Path, *, started: NDArray[np.float64], sizes: list[int]
) -> Tried:
    """Do all that a run does, on the chosen batches."""
    from nam.app.attribute import writer_of
    from nam.hooks.callback import ActivationRecorder

    mine = cfg.copy()
    mine.run_dir, mine.resume = str(folder), None
    writer, times = writer_of(mine, module), Times()
    callbacks: list[L.Callback] = [writer, Progress(), *([ActivationRecorder()] if cfg.record else []), times]
    devices = OmegaConf.select(cfg, "trainer.devices")
    alone = {
        "devices": list(devices)[:1] if OmegaConf.is_list(devices) else 1,
        "num_nodes": 1,
        "strategy": "auto",
        "limit_predict_batches": 1.0,
    }
    trainer: L.Trainer = build(cfg.trainer, callbacks=callbacks, logger=False, **alone)
    try:
        trainer.predict(module, datamodule=data, return_predictions=False)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stop
    return _tried(mine, writer, np.stack([started, *times.read]), sizes)


def _tried(cfg: DictConfig, writer: StoreWriter, read: NDArray[np.float64], sizes: list[int]) -> Tried:
    from nam.app.attribute import report_on
    from nam.report.pages import REPORT_FILE
    from nam.store import peak_memory
    from nam.store.schema import IMAGES, NEURONS_FILE, SAMPLES_FILE, SCORES_FILE, SHARDS

    folder = Path(cfg.run_dir)
    shards = {kind: _bytes(folder / SHARDS, f"{kind}-*") for kind in ("samples", "neurons", "scores")}
    before = clocks()
    writer.finish(metrics={})
    merged = clocks()
    report_on(cfg, {})
    spent = np.diff(read, axis=0)
    return Tried(
        sizes=tuple(sizes),
        start=spent[0],
        batches=spent[1:],
        merge=merged - before,
        report=clocks() - merged,
        memory=peak_memory(),
        shards=Sizes(**shards),
        files=Sizes(
            samples=_bytes(folder, SAMPLES_FILE),
            neurons=_bytes(folder, NEURONS_FILE),
            scores=_bytes(folder, SCORES_FILE),
        ),
        images=_bytes(folder / IMAGES, "*"),
        page=_bytes(folder, REPORT_FILE),
    )


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _print(found: Estimate, path: Path) -> None:
    one = "1 process" if found.processes == 1 else f"{found.processes} processes"
    memory = [f"{size / 2**20:,.0f} MiB ({place})" for place, size in found.memory.items()]
    for line in (
        f"estimated from {found.measured} of {found.samples} samples, for {one}:",
        f"time: {_span(found.seconds)}; of processors, over all processes, {_span(found.processor_seconds)}",
        f"memory of each process: {', '.join(memory)}",
        f"disk: {found.disk / 2**20:,.1f} MiB, and up to {found.disk_peak / 2**20:,.1f} MiB while tables are "
        "joined; without what a logger keeps",
        f"estimate: {path}",
    ):
        say(line)


def _span(seconds: float) -> str:
    """
    >>> [_span(seconds) for seconds in (4.21, 93, 7260)]
    ['4.2 s', '1 min 33 s', '2 h 1 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"
