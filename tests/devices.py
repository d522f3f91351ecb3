"""Devices that a machine has not: tensors are said to be on them, and compute on the CPU all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
CARDS = [torch.device("cuda", card) for card in range(3)]

#: What may be called with tensors of several devices.
ACROSS = (
    Tensor.copy_,
    Tensor.data.__set__,  # type: ignore[attr-defined]
    torch._has_compatible_shallow_copy_type,
    torch.autograd.grad,
    torch.autograd.backward,
)


class PretendDevices(TorchFunctionMode):
    """Inside, `.to("cuda:1")` works without a card, and an operation on tensors of two devices fails.

    As on real cards, an index may be on the CPU, and so may a number (0 dimensions). Where a tensor is
    follows its storage; what an operation returns is where its tensors are, or where its `device` says.
    What autograd does by itself is not watched.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[int, tuple[torch.device, Any]] = {}  # storages are kept: none takes another's name

    def place(self, tensor: Tensor) -> torch.device:
        """Where a tensor is said to be."""
        return self._places.get(_storage(tensor)._cdata, (CPU, None))[0]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return self.place(args[0])
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return self.place(args[0]).type == "cuda"
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._move(func, args, kwargs)
        given = list(_tensors((args, kwargs)))
        place = self._agreed(func, args, given)
        if kwargs.get("device") is not None:
            place, kwargs["device"] = torch.device(kwargs["device"]), "cpu"
        if func in (Tensor.numpy, Tensor.__array__) and place != CPU:
            raise TypeError(f"a tensor on {place} is no NumPy array: .cpu() is missing")
        found = func(*args, **kwargs)
        if func is torch.autograd.grad:
            inputs = args[1] if len(args) > 1 else kwargs["inputs"]
            for one, tensor in zip(found, _tensors(inputs), strict=True):
                self._put(one, self.place(tensor))
            return found
        known = {_storage(tensor)._cdata for tensor in given}
        for tensor in _tensors(found):
            if _storage(tensor)._cdata not in known:
                self._put(tensor, place)
        return found

    def _move(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        place, rest = self.place(args[0]), list(args)
        there = CPU if func is Tensor.cpu else place
        if func is Tensor.cuda:
            raise RuntimeError("say where to: .to(device)")
        for at, value in enumerate(rest[1:], 1):
            if isinstance(value, Tensor):
                there = self.place(value)
            elif isinstance(value, str | torch.device):
                there, rest[at] = torch.device(value), CPU
        if kwargs.get("device") is not None:
            there, kwargs["device"] = torch.device(kwargs["device"]), CPU
        found: Tensor = func(*rest, **kwargs)
        if there != place and _storage(found)._cdata == _storage(args[0])._cdata:
            found = found.clone()
        if _storage(found)._cdata != _storage(args[0])._cdata:
            self._put(found, there)
        return found

    def _agreed(self, func: Any, args: tuple[Any, ...], given: list[Tensor]) -> torch.device:
        """The one device of an operation's tensors; an error where there are two."""
        if func in ACROSS:
            return self.place(args[0]) if args and isinstance(args[0], Tensor) else CPU
        places = {self.place(tensor) for tensor in given if tensor.ndim or self.place(tensor) != CPU}
        if func in (Tensor.__getitem__, Tensor.__setitem__) and given:
            free = {self.place(tensor) for tensor in _tensors(args[1])} - {CPU}
            values = {self.place(tensor) for tensor in _tensors(args[2:]) if tensor.ndim}
            places = {self.place(args[0]), *free, *values}
        if len(places) > 1:
            raise RuntimeError(f"{getattr(func, '__name__', func)}: tensors on {sorted(map(str, places))}")
        return next(iter(places), CPU)

    def _put(self, tensor: Tensor, place: torch.device) -> None:
        storage = _storage(tensor)
        self._places[storage._cdata] = (place, storage)


def _storage(tensor: Tensor) -> Any:
    while torch._C._functorch.is_batchedtensor(tensor):  # inside vmap, as in some masks of transformers
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)


@pytest.fixture
def devices() -> Iterator[PretendDevices]:
    with PretendDevices() as mode:
        yield mode
