"""Going on with a forward pass from one of its layers, with other hidden states at a few of its positions.

The model's own decoder layers run, with the masks and rotary embeddings that they were given the first time,
over the keys and values that they kept of the earlier positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.packing import Enough, Keys, has_tensor, pack_axis, pack_mask
from nam.mllm.products import Linears
from nam.mllm.resting import weight_of

if TYPE_CHECKING:
    from nam.mllm.base import MLLM, Record
    from nam.types import Generation

#: Attention functions that take any mask.
ATTENTION = ("eager", "sdpa")

#: Most tokens whose rows share one copy of the earlier keys and values, each seeing its own row alone.
PACKED = 64

#: The axis of the positions in what a layer is called with, beside its mask.
AXES = {"position_ids": -1, "cache_position": -1, "position_embeddings": -2}

#: What to do where a model cannot go on from a layer.
AT_ONCE = "set reduction.ablation.resume=false (or that of ig, ce), or reduction.nam_total.rerun=0"

#: New values of what enters a layer's value linear, (rows, W, d) to the same.
Write = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class LayerTrace:
    """What one layer was called with and what it gave, at the W positions of a window.

    Attributes:
        module: The decoder layer.
        linear: Its value linear.
        entering: The residual stream before it, (W, H).
        leaving: The residual stream after it, (W, H).
        held: Keys and values of the positions before the window; None where the layer keeps none.
        settings: What else it was called with, for all positions up to the window's end.
    """

    module: nn.Module
    linear: nn.Linear
    entering: Tensor = field(init=False)
    leaving: Tensor = field(init=False)
    held: tuple[Tensor, Tensor] | None = field(init=False)
    settings: Mapping[str, Any] = field(init=False)


@dataclass(frozen=True, eq=False)
class Trace:
    """One replay of one generation, from any layer of which a window of positions can go on.

    Attributes:
        name: Of the model.
        start, stop: The window: positions `start` to `stop` - 1 of the sequence, W of them.
        layers: By layer.
        hidden: Last hidden states up to the window's end, after the final norm: (stop, H).
    """

    name: str
    start: int
    stop: int
    layers: tuple[LayerTrace, ...]
    hidden: Tensor

    def step(self, layer: int, rows: Tensor, *, write: Write | None = None) -> Tensor:
        """One layer for rows (N, W, H) that enter it; they do not depend on one another.

        Args:
            layer: From 0.
            rows: The residual stream before the layer.
            write: Changes what enters the layer's value linear; further rows may follow the N, which are not
                looked at.

        Returns:
            The residual stream after the layer, (N, W, H).
        """
        traced, count, width = self.layers[layer], len(rows), self.stop - self.start
        rows = rows.to(traced.entering.device)
        if not count:
            return rows
        # Several rows in one sequence share the earlier keys and values; the mask keeps them apart.
        groups = -(-count // max(1, min(self.start, PACKED) // width))
        size = -(-count // groups)
        if groups * size > count:
            rows = torch.cat([rows, rows[: groups * size - count]])
        with _writing(traced.linear, write, width):
            rows = rows.reshape(groups, size * width, -1)
            out = self._call(layer, rows, Keys(traced.held), start=self.start, stop=self.stop, times=size)
        return out.reshape(-1, width, out.shape[-1])[:count]

    def towards(self, layer: int, rows: Tensor, *, start: int) -> Tensor:
        """`step`, where in the end only positions from `start` on are wanted.

        The last layer then gives these alone, (N, stop - start, H), and computes no more than keys and values
        of those before.
        """
        early = start - self.start
        if not early or not len(rows) or layer < len(self.layers) - 1:
            out = self.step(layer, rows)
            return out[:, early:] if layer == len(self.layers) - 1 else out
        rows = rows.to(self.layers[layer].entering.device)
        keys = Keys(self.layers[layer].held, enough=True)
        with suppress(Enough):
            self._call(layer, rows[:, :early], keys, start=self.start, stop=start)
        return self._call(layer, rows[:, early:], Keys(keys.held), start=start, stop=self.stop)

    def _call(self, layer: int, rows: Tensor, keys: Keys, *, start: int, stop: int, times: int = 1) -> Tensor:
        """A layer for `times` copies of some positions, behind those that the keys are of."""
        settings = dict(self.layers[layer].settings)
        window = {"start": start, "stop": stop, "times": times}
        for name in AXES.keys() & settings.keys():
            settings[name] = pack_axis(settings[name], AXES[name], **window)
        mask = pack_mask(settings.get("attention_mask"), **window, device=rows.device)
        settings |= {"attention_mask": mask, "past_key_values": keys}
        with Linears():
            return _first(self.layers[layer].module(rows, **settings))


@torch.no_grad()
def trace(mllm: MLLM, generation: Generation, *, start: int, stop: int, record: Record = None) -> Trace:
    """Replay a generation as far as position `stop` - 1, without gradients, and keep what its layers need to
    go on from position `start`.

    Args:
        mllm: The model.
        generation: What it answered.
        start, stop: The window; it ends behind the prompt.
        record: Reads the same replay.

    Raises:
        ModelError: the model's layers are not of the kind that can go on.
    """
    config = mllm.language_model.config.get_text_config(decoder=True)
    attention = getattr(config, "_attn_implementation", "not one of transformers'")
    if attention not in ATTENTION:
        raise _cannot(mllm.name, f"its attention is {attention}, not {' or '.join(ATTENTION)}")
    blocks = mllm.language_model.get_decoder().layers
    layers = tuple(LayerTrace(block, site.linear) for block, site in zip(blocks, mllm.ffn_sites, strict=True))
    with ExitStack() as stack:
        for traced in layers:
            _watch(traced, stack, name=mllm.name, start=start, stop=stop)
        hidden = mllm.replay([generation.until(stop)], record=record).hidden[0, :stop]
    for traced in layers:
        if traced.held is None or traced.held[0].shape[-2] < stop:
            kind = type(traced.module).__name__
            raise _cannot(mllm.name, f"{kind} keeps no keys and values of each position")
        traced.held = (traced.held[0][..., :start, :], traced.held[1][..., :start, :])
    return Trace(mllm.name, start, stop, layers, hidden)


@torch.no_grad()
def ffns_add_up(trace: Trace) -> bool:
    """Whether what each FFN's value linear writes arrives in its layer's output as it is.

    It does not where a norm or a factor stands between the two. Every layer is asked, with a change of its
    activations and what should follow from it.
    """
    for layer, traced in enumerate(trace.layers):
        weight = weight_of(traced.linear)
        stream = traced.leaving.to(weight.device)
        pattern = torch.linspace(-2.0, 3.0, weight.shape[1], device=weight.device).sin().to(weight)
        written = weight @ pattern
        factor = stream.square().mean().sqrt() / written.square().mean().sqrt()

        def write(values: Tensor, change: Tensor = factor * pattern) -> Tensor:
            return torch.cat([values[:1], values[1:2] + change, values[2:]])

        plain, changed = trace.step(layer, traced.entering.expand(2, -1, -1), write=write).unbind()
        expected = (factor * written).to(plain.device)
        noise = 1e-3 * expected.abs().max() + 8 * torch.finfo(plain.dtype).eps * plain.abs()
        if bool(((changed - plain - expected).abs() > noise).any()):
            return False
    return True


def require_same(found: Tensor, expected: Tensor, *, name: str) -> None:
    """Compare hidden states by a pass that went on from a layer with those by a whole one.

    Raises:
        ModelError: they differ by more than rounding.
    """
    tolerance = max(1e-3, 16 * torch.finfo(expected.dtype).eps) * expected.abs().max()
    off = (found - expected).abs().max()
    if bool(expected.isfinite().all()) and not bool(off <= tolerance):
        raise ModelError(
            f"{name} computes other hidden states when its forward pass goes on from a layer (off by up to "
            f"{float(off):.3g} of {float(expected.abs().max()):.3g}); {AT_ONCE}"
        )


def _watch(traced: LayerTrace, stack: ExitStack, *, name: str, start: int, stop: int) -> None:
    """Keep in `traced` what comes by in one forward pass, while the stack is open."""
    keys = Keys()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        settings = dict(kwargs)
        entering = args[0] if args else settings.pop("hidden_states")
        known = {*AXES, "attention_mask"}
        strange = [key for key, value in settings.items() if key not in known and has_tensor(value)]
        if args[1:] or strange or settings.pop("past_key_values", keys) is not None:
            what = f"{strange[0]} to" if strange else "other arguments to"
            raise _cannot(name, f"it gives {what} {type(module).__name__}")
        mask = settings.get("attention_mask")
        if mask is not None and getattr(mask, "shape", ())[-2:] != (entering.shape[1],) * 2:
            raise _cannot(name, "its attention mask is not one of queries and keys")
        traced.settings, traced.entering = settings, entering[0, start:stop]
        return args, {**kwargs, "past_key_values": keys}

    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        traced.leaving, traced.held = _first(out)[0, start:stop], keys.held

    stack.callback(traced.module.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(traced.module.register_forward_hook(after).remove)


@contextmanager
def _writing(linear: nn.Linear, write: Write | None, width: int) -> Iterator[None]:
    if write is None:
        yield
        return

    def hook(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = given[0].reshape(-1, width, given[0].shape[-1])
        return (write(values).reshape(given[0].shape), *given[1:])

    handle = linear.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _first(out: Any) -> Tensor:
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


def _cannot(name: str, why: str) -> ModelError:
    return ModelError(f"the forward pass of {name} cannot go on from a layer ({why}); {AT_ONCE}")
