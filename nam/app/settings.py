"""The settings of attribute.py, held against what they mean before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from nam.app.build import check, check_call
from nam.app.config import group_options
from nam.errors import ConfigError, nearest

#: What a run's results depend on: the same when it is resumed.
SETTLED = (
    *("seed", "mllm", "data", "segmenter", "relevance", "reduction"),
    *("draw", "max_new_tokens", "record", "top", "words"),
)

_COUNTS = ("max_new_tokens", "top", "words", "write_interval", "report.top", "report.samples")

#: Of Lightning, those under which a process holds the whole model and is started by a command line.
STRATEGIES = ("auto", "ddp", "DDPStrategy", "SingleDeviceStrategy")

#: Of NumPy's legacy generator, which is seeded too.
_MOST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run beside the objects it builds, as attribute.yaml explains them."""

    seed: int
    run_dir: str
    resume: str | None
    estimate: bool
    aggregate: str | list[str] | None
    overrides: list[str]
    draw: Literal["auto"] | bool
    max_new_tokens: int
    record: bool
    top: int
    words: int
    write_interval: int
    report: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Of report.html: neurons in a concept's tables, and samples shown per concept."""

    top: int
    samples: int


def check_attribution(cfg: DictConfig) -> None:
    """Refuse a configuration that cannot be run, before anything is loaded. Raises ConfigError."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_call(Settings, {name: plain[name] for name in Settings.__dataclass_fields__ if name in plain})
    check_call(ReportSettings, plain["report"] or {}, where="report")
    for key in _COUNTS:
        if (value := OmegaConf.select(cfg, key)) < 1:
            raise ConfigError(f"{key} must be at least 1, got {value}")
    if not 0 <= cfg.seed <= _MOST_SEED:
        raise ConfigError(f"seed must be at least 0 and at most {_MOST_SEED}, got {cfg.seed}")
    for where in ("mllm", "data", "segmenter", "relevance", "trainer"):
        if "_target_" not in (plain.get(where) or {}):
            options = ", ".join(group_options(where))
            raise ConfigError(f"'{where}' is not chosen: set {where}=NAME, one of {options}")
    for where in ("mllm", "data", "segmenter", "relevance", "evaluate"):
        check(cfg.get(where), where=where)
    for where in ("reduction", "logger"):
        _check_each(plain.get(where) or {}, where)
    _check_trainer(cfg)


def _check_each(nodes: dict[str, Any], where: str) -> None:
    """Of a group that takes several options, each is null or says what to build."""
    for name, node in nodes.items():
        if node is not None and not (isinstance(node, dict) and "_target_" in node):
            raise ConfigError(f"{where}.{name} has no _target_: {nearest(name, group_options(where))}")
    check(nodes, where=where)


def _check_trainer(cfg: DictConfig) -> None:
    check(cfg.trainer, where="trainer", given={"callbacks": None, "logger": None})
    if cfg.trainer.get("inference_mode") is not False:
        raise ConfigError("trainer.inference_mode must be false: relevance and some methods need gradients")
    if cfg.trainer.get("use_distributed_sampler") is not False:
        raise ConfigError("trainer.use_distributed_sampler must be false: the data is shared out already")
    check_spread(cfg)
    strategy = cfg.trainer.get("strategy", "auto")
    name = str(strategy.get("_target_") if isinstance(strategy, DictConfig) else strategy).rpartition(".")[2]
    if name not in STRATEGIES:
        raise ConfigError(
            f"trainer.strategy={name} is not supported: every process needs the whole model, whose weights "
            "FSDP, DeepSpeed and others take apart; use trainer=ddp, or for a model that is larger than a "
            "card one process with mllm.device=auto"
        )
    if cfg.trainer.get("limit_predict_batches") == 0:
        raise ConfigError("trainer.limit_predict_batches=0: nothing would be attributed; 1.0 takes all")


def check_spread(cfg: DictConfig) -> None:
    """A model that is spread over the cards is one process's. Raises ConfigError for several processes."""
    device, devices = cfg.mllm.get("device"), cfg.trainer.get("devices", 1)
    if device != "auto" and not isinstance(device, DictConfig):
        return
    one = devices in (1, "1") or (OmegaConf.is_list(devices) and len(devices) == 1)
    if not one or cfg.trainer.get("num_nodes", 1) != 1:
        raise ConfigError(
            f"mllm.device={device} spreads one model over the cards of one process: set trainer.devices=1 "
            f"and trainer.num_nodes=1 (got {devices} and {cfg.trainer.get('num_nodes', 1)}), or "
            "mllm.device=cpu for a whole model on each card"
        )
