"""The chain from items to scores, as a configuration describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from nam.app.build import build

if TYPE_CHECKING:
    from nam.attribution import Attributor
    from nam.mllm.base import MLLM
    from nam.reduction.base import Method


def reductions_of(cfg: DictConfig) -> dict[str, Method]:
    """The methods of `cfg.reduction` by name, without those that are null."""
    return {str(name): build(node) for name, node in cfg.reduction.items() if node is not None}


def attributor_of(
    cfg: DictConfig, *, methods: Mapping[str, Method] | None = None, mllm: MLLM | None = None
) -> Attributor:
    """What `cfg.mllm`, `cfg.segmenter`, `cfg.relevance` and `cfg.reduction` make together.

    Args:
        cfg: Of a command; `draw` and `max_new_tokens` count where it has them.
        methods: Instead of those of `cfg.reduction`.
        mllm: Instead of that of `cfg.mllm`.
    """
    # The model comes last: what is small is refused before it is read.
    methods = reductions_of(cfg) if methods is None else methods
    segmenter, relevance = build(cfg.segmenter), build(cfg.relevance)
    mllm = build(cfg.mllm) if mllm is None else mllm
    from nam.attribution import Attributor

    settings = {name: cfg[name] for name in ("draw", "max_new_tokens") if name in cfg}
    return Attributor(mllm=mllm, segmenter=segmenter, relevance=relevance, methods=methods, **settings)
