"""TransformerLens: its bridge around the model, with hooks by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.peers.common import Read, Scaled, Task, main, scale


def build(task: Task) -> tuple[Read, Scaled]:
    """The two functions, of the model wrapped once."""
    bridge = TransformerBridge.boot_transformers(str(task.folder), hf_model=task.model)
    names = [f"blocks.{layer}.mlp.out.hook_in" for layer in range(len(task.blocks))]

    def read(ids: Tensor) -> Sequence[Tensor]:
        _, cache = bridge.run_with_cache(ids, names_filter=names, prepend_bos=False)
        return [cache[name] for name in names]

    def scaled(ids: Tensor, factors: Sequence[Tensor | None]) -> Tensor:
        hooks = [
            (name, partial(_scaled, mine=mine))
            for name, mine in zip(names, factors, strict=True)
            if mine is not None
        ]
        return bridge.run_with_hooks(ids, fwd_hooks=hooks, prepend_bos=False)

    return read, scaled


def _scaled(given: Tensor, hook: object, *, mine: Tensor) -> Tensor:
    return scale(given, mine)


if __name__ == "__main__":
    main("transformer_lens", build)
