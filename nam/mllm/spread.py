"""A language model larger than a card: its decoder layers on several devices, or resting in memory.

Only the layers are spread. Embedding, unembedding, final norm and every other part stay together on the main
device, where prompts enter, activations are gathered and scores are computed; each layer's value vectors are
read where its weights are. What travels between devices is the residual stream, never a weight.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from nam.errors import ConfigError
from nam.mllm.device_map import Device, MaxMemory, Spread, check_device, planned, size_of
from nam.mllm.ffn import find_sites
from nam.mllm.resting import RestingLinear, rest

if TYPE_CHECKING:
    from nam.mllm.base import MLLM

log = logging.getLogger(__name__)

#: A model of any family.
Model = TypeVar("Model", bound="MLLM")


def placed(
    model: Model, *, device: Device, max_memory: MaxMemory | None = None, dtype: torch.dtype | None = None
) -> Model:
    """The model on its device or devices, which have yet to see it: it is read on the CPU.

    Args:
        model: The model.
        device: See `Device`; "auto" spreads the layers over all cards by the memory that is left on them, and
            lets those that fit nowhere rest.
        max_memory: See `MaxMemory`; for "auto" alone, which then uses these devices and no others.
        dtype: Its precision; None keeps it.

    Raises:
        ConfigError: a device cannot be used, the layers do not fit, or the settings do not go together.
    """
    check_device(device, max_memory=max_memory)
    if dtype is not None:
        model = model.to(dtype=dtype)
    try:
        if isinstance(device, str) and device != "auto":
            return model.to(device=device)
        lm = model.language_model
        find_sites(lm)  # refuses by name a model whose layers are not where they are looked for
        other = size_of(model) - size_of(lm)
        plan = planned(lm, device=device, max_memory=max_memory, other=other)
        spread(model, plan)
        log.info("the language model has %s, all else is on %s", plan, plan.main)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"mllm.device={device!r} cannot be used: {error}") from error
    return model


def spread(model: MLLM, plan: Spread) -> None:
    """Put a model on its devices, and let hidden states follow its layers.

    From then on the model stays there, whatever a trainer asks of it.

    Args:
        model: The model, on the CPU.
        plan: Where to.
    """
    layers = model.language_model.get_decoder().layers
    where: dict[int, torch.device] = {}
    for layer, device in zip(layers, plan.layers, strict=True):
        if device is None:
            rest(layer, device=plan.main)
        held = device or plan.main
        where |= {id(tensor): held for tensor in (*layer.parameters(), *layer.buffers())}
        for module in layer.modules():
            if isinstance(module, RestingLinear):
                where[id(module.weight)] = module.weight.device
    # A tensor that is shared, such as a tied embedding, is moved once and stays shared.
    model._apply(lambda tensor: tensor.to(where.get(id(tensor), plan.main)))
    model.__dict__.pop("ffn_sites", None)
    model.spread = plan
    devices = [device or plan.main for device in plan.layers]
    if set(devices) == {plan.main}:
        return
    for layer, device in zip(layers, devices, strict=True):
        layer.register_forward_pre_hook(_taking_to(device), with_kwargs=True)
    layers[-1].register_forward_hook(_bringing_to(plan.main))


def _taking_to(device: torch.device) -> Callable[..., Any]:
    def take(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return moved(args, device), moved(kwargs, device)

    return take


def _bringing_to(device: torch.device) -> Callable[..., Any]:
    def bring(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        return moved(out, device)

    return bring


def moved(value: Any, device: torch.device) -> Any:
    """A value with every tensor in it, and in its tuples, lists and dicts, on a device; caches stay."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(one, device) for key, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(moved(one, device) for one in value)
    return value
