"""Which layers of a language model go to which device: what `mllm.device` and `mllm.max_memory` say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nam.checks import whole
from nam.errors import ConfigError

#: `mllm.device`: one device, "auto", or how many layers each device gets, in order; "cpu" among them is where
#: layers rest.
Device = str | Mapping[str | int, int]

#: `mllm.max_memory`: what the language model may take of each device, such as "20GiB" or a number of GB.
MaxMemory = Mapping[str | int, str | int | float]

#: What of a card's free memory is left to activations, vision tower and picture generator: this share, and no
#: more than so many bytes.
LEFT, MOST_LEFT = 0.2, 6 * 10**9

#: Bytes of a unit of memory.
UNITS = {"MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}


@dataclass(frozen=True)
class Spread:
    """Where the weights of a language model are.

    Attributes:
        main: Where everything but the layers is, and where layers that rest are computed.
        layers: The device of each layer; None: its linears rest in the machine's memory.
    """

    main: torch.device
    layers: tuple[torch.device | None, ...]

    def __str__(self) -> str:
        places = ["in memory" if device is None else f"on {device}" for device in self.layers]
        return ", ".join(f"{places.count(place)} layers {place}" for place in dict.fromkeys(places))


def check_device(device: Device, *, max_memory: MaxMemory | None = None) -> None:
    """Check what a model is to be put on, before it is read.

    Raises:
        ConfigError: a device cannot be used, there is none to spread over, or the settings do not go
            together.
    """
    if max_memory is not None and device != "auto":
        raise ConfigError(f"mllm.max_memory is for mllm.device=auto, got mllm.device={device}")
    if max_memory is not None and not isinstance(max_memory, Mapping):
        raise ConfigError(f"mllm.max_memory must name cards, such as {{0:20GiB}}, got {max_memory!r}")
    if not isinstance(device, str | Mapping):
        raise ConfigError(f"mllm.device must be a device, auto or layers by device, got {device!r}")
    if isinstance(device, str):
        used = set(_room(max_memory)) if device == "auto" else {device}
    else:
        used = {str(where) for where in _named(device) if where is not None}
    for one in sorted(map(str, used)):
        try:
            torch.empty(0, device=one)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"mllm.device={one!r} cannot be used: {error}") from error


def planned(language_model: Any, *, device: Device, max_memory: MaxMemory | None, other: int = 0) -> Spread:
    """Where the layers are to go.

    Args:
        language_model: Whose layers.
        device, max_memory: As in `nam.mllm.spread.placed`; not one device.
        other: Bytes of all else that goes to the main device, beside the language model.

    Raises:
        ConfigError: as in `nam.mllm.spread.placed`.
    """
    layers = language_model.get_decoder().layers
    if not isinstance(device, str):
        found = _named(device)
        if len(found) != len(layers):
            raise ConfigError(
                f"mllm.device={dict(device)} places {len(found)} layers, the language model has {len(layers)}"
            )
        return Spread(next(where for where in found if where is not None), tuple(found))
    room, sizes = _room(max_memory), [size_of(layer) for layer in layers]
    devices = list(room)
    other += size_of(language_model) - sum(sizes)
    if other > room[devices[0]]:
        raise ConfigError(
            f"mllm.device=auto: embeddings and all else that is no layer take {other / 1e9:.1f} GB, "
            f"{devices[0]} has room for {room[devices[0]] / 1e9:.1f} GB; free it, raise mllm.max_memory or "
            "set mllm.device=cpu"
        )
    places = share_out(sizes, [room[devices[0]] - other, *(room[where] for where in devices[1:])])
    return Spread(devices[0], tuple(None if place is None else devices[place] for place in places))


def share_out(sizes: Sequence[int], room: Sequence[int]) -> list[int | None]:
    """Which device each layer goes to, in order: each gets a share of them like its share of the room.

    Args:
        sizes: Bytes of each layer.
        room: Bytes that there are on each device.

    Returns:
        A place in `room` for each layer; None for the last ones where there is no room for all.
    """
    total, most = sum(sizes), sum(room)
    found: list[int | None] = []
    if total <= most:
        bounds = [total * sum(room[: place + 1]) / most for place in range(len(room))] if most else []
        ends = 0
        for size in sizes:
            ends += size
            found.append(next((at for at, bound in enumerate(bounds) if ends - size / 2 <= bound), None))
        used = [sum(size for size, at in zip(sizes, found, strict=True) if at == i) for i in range(len(room))]
        if all(taken <= there for taken, there in zip(used, room, strict=True)):
            return found
    found, left, place = [], list(room), 0
    for size in sizes:
        while place < len(left) and size > left[place]:
            place += 1
        if place == len(left):
            break
        left[place] -= size
        found.append(place)
    return found + [None] * (len(sizes) - len(found))


def size_of(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers; what is shared counts once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def _named(device: Mapping[str | int, int]) -> list[torch.device | None]:
    """The device of each layer that a mapping names; None for layers that rest."""
    found: list[torch.device | None] = []
    for key, count in device.items():
        where = _device(key)
        found += [where] * whole(f"mllm.device.{key}", count, least=0, error=ConfigError)
    if not any(found):
        raise ConfigError(f"mllm.device={dict(device)} puts no layer on a card: set mllm.device=cpu")
    return found


def _room(max_memory: MaxMemory | None) -> dict[torch.device, int]:
    """Bytes that the language model may take of each card."""
    if max_memory is None:
        return _free()
    room = {_device(key): _bytes(key, value) for key, value in max_memory.items()}
    found = {where: size for where, size in room.items() if where is not None}
    if not found or len(found) < len(room):
        raise ConfigError(
            "mllm.max_memory names cards, such as {0:20GiB,1:20GiB}: what does not fit on them rests in the "
            "machine's memory by itself"
        )
    return found


def _device(key: str | int) -> torch.device | None:
    """A device by its number or name; None for the machine's memory."""
    name = str(key)
    if name == "cpu":
        return None
    if name == "disk":
        raise ConfigError("mllm.device: layers rest in the machine's memory (cpu), not on a disk")
    try:
        return torch.device(_kind_of_cards(), int(name)) if name.isdigit() else torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"mllm.device: {name!r} is no device: {error}") from error


def _kind_of_cards() -> str:
    """What kind of cards this machine has; "cuda" where it has none, so that errors speak of those."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cuda" if found is None else found.type


def _free() -> dict[torch.device, int]:
    """What a language model may take of each card, in bytes."""
    kind = _kind_of_cards()
    cards = torch.get_device_module(kind)
    if not cards.is_available() or not hasattr(cards, "mem_get_info"):
        raise ConfigError(
            "mllm.device=auto spreads the layers over cards, and none was found that tells how much memory "
            "it has; set mllm.device=cpu, or name the cards by mllm.max_memory"
        )
    free = [cards.mem_get_info(card)[0] for card in range(cards.device_count())]
    return {
        torch.device(kind, card): int(there - min(LEFT * there, MOST_LEFT)) for card, there in enumerate(free)
    }


def _bytes(key: str | int, value: str | int | float) -> int:
    if isinstance(value, int | float):
        return int(value * UNITS["GB"])
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", str(value))
    if found is None or found[2] not in UNITS:
        raise ConfigError(f"mllm.max_memory.{key} must be a size such as 20GiB or 20 (GB), got {value!r}")
    return int(float(found[1]) * UNITS[found[2]])
