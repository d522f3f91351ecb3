"""Every model under contract, what it is asked, and what can be seen of it from outside."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nam.errors import InputError
from nam.mllm.base import MLLM
from nam.reduction.base import Context, contexts_of
from nam.targets import text_target
from nam.types import Concept, Generation
from tests.families import contract_models, picture
from tests.reduction.cases import a_word

MODELS = contract_models()
PROMPTS = ("draw a red horse on the grass", "what is this?", "a cat at night .", "a dog")
SIZES = (None, (64, 40), None, (30, 90))


@cache
def made(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> MLLM:
    """A model of the zoo, made once: no test may leave it changed."""
    return MODELS[name](folder, dtype)


def images(mllm: MLLM) -> list[np.ndarray | None]:
    """Pictures of several sizes beside prompts without one; none for a model that reads words alone."""
    found = [None if size is None else picture(row, size) for row, size in enumerate(SIZES)]
    try:
        mllm.generate(image=found[1], max_new_tokens=1, draw=False)
    except InputError:
        return [None] * len(SIZES)
    return found


def ask(mllm: MLLM, *, record: Any = None) -> list[Generation]:
    found: list[Generation] = mllm.generate(
        prompt=PROMPTS, image=images(mllm), max_new_tokens=7, draw=False, record=record
    )
    return found


@cache
def answers(mllm: MLLM) -> tuple[Generation, ...]:
    return tuple(ask(mllm))


def contexts(mllm: MLLM, generations: tuple[Generation, ...], **settings: Any) -> list[Context]:
    targets = [text_target(mllm, one, Concept(a_word(one))) for one in generations]
    return contexts_of(mllm, generations, targets, **settings)


def assert_close(one: Tensor, other: Tensor, *, share: float = 1e-4) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=share * float(other.abs().max()))


def hooks_of(mllm: MLLM) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in mllm.modules())


def bits_of(mllm: MLLM) -> list[Tensor]:
    return [tensor.clone() for tensor in (*mllm.parameters(), *mllm.buffers())]


def layer_outputs(mllm: MLLM, generation: Generation, layer: int) -> Tensor:
    """What a decoder layer gives at every position, (T, H)."""
    seen: list[Tensor] = []
    module: nn.Module = mllm.language_model.get_decoder().layers[layer]

    def keep(module: nn.Module, given: Any, out: Any) -> None:
        seen.append((out[0] if isinstance(out, tuple) else out)[0])

    handle = module.register_forward_hook(keep)
    try:
        mllm.replay([generation])
    finally:
        handle.remove()
    return seen[0]
