"""Objects from configuration nodes: the only file that instantiates.

A node is a mapping with a `_target_`. Before anything is built, `check` holds every node against the real
signature of its target: unknown settings, missing ones and scalars of a wrong type are refused by name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from nam.checks import LISTS, SCALARS, conforms, hints_of, in_words
from nam.errors import ConfigError, NamError, nearest

#: What a configuration may build of this package. Not all of it: who hands over a run folder is not to write
#: files with `nam.store`.
OURS = (
    *("nam.data.", "nam.mllm.", "nam.segmenter.", "nam.relevance.", "nam.reduction.", "nam.evaluate."),
    *("nam.editor.", "nam.modules.", "nam.app.loggers.", "nam.app.callbacks.", "nam.app.processes."),
)

#: Of others, classes only: functions of theirs unpickle, download and start programs.
THEIRS = (
    *("torch.optim.", "lightning.pytorch.Trainer", "lightning.pytorch.strategies."),
    *("lightning.pytorch.callbacks.", "lightning.pytorch.loggers.", "lightning.pytorch.plugins."),
    "lightning.pytorch.profilers.",
)
_HOMES = (*OURS, "torch.optim.", "lightning.")
_RESERVED = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def build(node: DictConfig, **extra: Any) -> Any:
    """Build the object that a node describes; `extra` are arguments that are objects already.

    Raises ConfigError for a target outside `OURS` and `THEIRS`, and when it refuses its settings.
    """
    where = str(node._get_full_key(None)) or str(node.get("_target_"))
    check(node, where=where, given=extra)
    try:
        return instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, NamError):
            raise cause from error
        if isinstance(cause, (TypeError, ValueError, OSError, MisconfigurationException)):
            raise ConfigError(f"{where}: {cause}") from error
        raise


def build_all(nodes: DictConfig | None) -> list[Any]:
    """Build every node of a mapping name -> node; a name set to null is left out."""
    return [build(nodes[name]) for name in nodes or () if nodes and nodes[name] is not None]


def build_data(node: DictConfig) -> LightningDataModule:
    """Build a part's data module. Its `val_dataloader` may return None: no validation then."""
    data = build(node)
    if not isinstance(data, LightningDataModule):
        raise ConfigError(f"part.data._target_ must give a LightningDataModule, got {type(data).__name__}")
    loader = data.val_dataloader
    if getattr(type(data), "val_dataloader", None) is not LightningDataModule.val_dataloader:
        # Lightning refuses None from the hook, but takes an empty list as "no validation".
        data.val_dataloader = lambda: [] if (found := loader()) is None else found  # type: ignore[method-assign]
    return data


def check(node: Any, *, where: str = "", given: Mapping[str, Any] | None = None) -> None:
    """Hold every `_target_` under `node` against its real signature. Raises ConfigError, naming the key."""
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    _check(plain, where, dict(given or {}))


def check_call(target: Callable[..., Any], settings: Mapping[str, Any], *, where: str = "") -> None:
    """Raise ConfigError unless `target(**settings)` fits its signature, scalars and their types included."""
    parameters, takes_any = _parameters(target)
    named = list(parameters)
    at = f"{where}." if where else ""
    label = getattr(target, "__name__", str(target))
    for name in settings:
        if name not in named and not takes_any:
            hint = nearest(name, named)
            raise ConfigError(f"unknown key '{at}{name}' ({label} has no such setting): {hint}")
    for name in named:
        if parameters[name].default is inspect.Parameter.empty and name not in settings:
            raise ConfigError(f"'{at}{name}' is missing: {label} needs it")
    hints = hints_of(target)
    for name, value in settings.items():
        if name in hints and not conforms(value, hints[name]):
            if value is not None and isinstance(value, SCALARS) and _is_list(hints[name]):
                raise ConfigError(f"expected a list: {at}{name}=[{value}]")
            raise ConfigError(f"{at}{name} must be {in_words(hints[name])}, got {value!r}")


def _check(node: Any, where: str, given: dict[str, Any]) -> None:
    if isinstance(node, list):
        for index, item in enumerate(node):
            _check(item, f"{where}[{index}]", {})
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        _check(value, f"{where}.{key}" if where else str(key), {})
    if "_target_" in node:
        target = _locate(node["_target_"], where)
        settings = {k: v for k, v in node.items() if k not in _RESERVED} | given
        if not node.get("_partial_") and "_args_" not in node:
            check_call(target, settings, where=where)


def _locate(target: Any, where: str) -> Callable[..., Any]:
    if not isinstance(target, str) or not target.startswith((*OURS, *THEIRS)) or "._" in target:
        raise ConfigError(
            f"{where}._target_={target!r} is refused: it must be public and start with {', '.join(OURS)} or, "
            f"a class, with {', '.join(THEIRS)}"
        )
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}._target_={target!r} does not exist: {_why(target, error)}") from error
    # "lightning.<module>.os.system" starts well and ends elsewhere: the object itself must come from there.
    home = f"{getattr(found, '__module__', None)}."
    ours = callable(found) and home.startswith(OURS)
    if not ours and not (isinstance(found, type) and home.startswith(_HOMES)):
        raise ConfigError(f"{where}._target_={target!r} is refused: no such class or function there")
    return found


def _why(target: str, error: Exception) -> Exception:
    """Why a name is not found: of a module that is there but cannot be imported, its own error."""
    try:
        importlib.import_module(target.rpartition(".")[0])
    except ModuleNotFoundError:
        return error
    except ImportError as own:
        return own
    return error


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Named parameters of a call, and whether any other keyword is taken. A class of ours that passes
    `**keywords` on to its base has the base's parameters too."""
    functions: list[Callable[..., Any]] = [target]
    if isinstance(target, type) and target.__module__.startswith("nam."):
        functions = [vars(base)["__init__"] for base in target.__mro__ if "__init__" in vars(base)]
    named: dict[str, inspect.Parameter] = {}
    for function in functions:
        parameters = inspect.signature(function).parameters
        for name, p in parameters.items():
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name != "self":
                named.setdefault(name, p)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return named, False
    return named, True


def _is_list(hint: Any) -> bool:
    return any(typing.get_origin(one) in LISTS for one in (hint, *typing.get_args(hint)))
