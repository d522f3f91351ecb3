"""Reading the parts of a model from its folder: only when first used, checked, frozen, never from pickle."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.online import hub_answers

log = logging.getLogger(__name__)

#: Where the two libraries keep their verbosity.
HUB_LOGGING = ("transformers.utils.logging", "diffusers.utils.logging")

#: Weights of a transformers model in torch's own format.
TORCH_FILES = "pytorch_model*.bin"

#: Reads a part in a dtype.
Reader = Callable[[torch.dtype], nn.Module]


class LazyParts(nn.Module):
    """Parts that are read from disk the first time they are asked for.

    Once read, a part is a submodule like any other: it moves with `.to(...)` and is in `state_dict()`.

    Args:
        readers: How to read each part, by name.
        device: Where the parts stay, wherever the model around them goes; None: they go with it.
        origins: Where each part is read from: its folder or file, or its place on the hub (a string).
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        *,
        device: str | torch.device | None = None,
        origins: Mapping[str, Path | str] | None = None,
    ) -> None:
        super().__init__()
        self._readers = dict(readers)
        self.origins = dict(origins or {})
        self.device = None if device is None else torch.device(device)
        self.loaded = nn.ModuleDict()

    @property
    def names(self) -> list[str]:
        """The parts that there are, read or not."""
        return sorted(self._readers)

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor where the parts are."""
        return tensor if self.device is None else tensor.to(self.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def stay(tensor: Tensor) -> Tensor:
            # What a move would make of the precision, but not of gigabytes: they do not go there and back.
            return tensor.to(self.device, fn(tensor.new_empty(0)).dtype)

        return super()._apply(fn if self.device is None else stay, recurse)

    def get(self, name: str, *, like: Tensor) -> Any:
        """The part, on `like`'s device (or where the parts stay) and in its dtype if it is read now.

        Raises:
            ModelError: its folder is missing or does not hold such a part.
        """
        if name not in self.loaded:
            # A parameter made under inference mode could never take part in a gradient.
            with torch.inference_mode(False):
                self.loaded[name] = freeze(self._readers[name](like.dtype).to(self.device or like.device))
        return self.loaded[name]


def freeze(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, asking for no gradients."""
    return module.eval().requires_grad_(False)


def read_pretrained(
    model_class: Any,
    source: Path | str,
    dtype: torch.dtype,
    *,
    revision: str | None = None,
    torch_files: bool = False,
    read_elsewhere: tuple[str, ...] | None = None,
    unused: tuple[str, ...] = (),
) -> nn.Module:
    """A transformers or diffusers model from its `save_pretrained` folder, or by its hub id.

    Args:
        model_class: The class.
        source: A folder (a path), which holds `config.json` and safetensors files in any precision; or a hub
            id (a string).
        dtype: What the weights become.
        revision: Of a hub id.
        torch_files: Whether torch's own files are read where there is no safetensors file (OPT); nothing but
            tensors is (`weights_only`).
        read_elsewhere: How the names of tensors begin that the model has no place for but others read: of any
            else there is a warning. None: of none.
        unused: Parts of the names of tensors that are not used, and may be missing.

    Raises:
        ModelError: the folder or its weights are missing, damaged, incomplete, of other sizes or not finite.
    """
    settings = _where(source, revision)
    safe = True
    if isinstance(source, Path):
        safe = require_weights(source, torch_files=torch_files)
    if model_class.__module__.startswith("diffusers"):
        settings |= {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    else:
        # Its own refusal names no tensor: the check below does.
        settings |= {"dtype": dtype, "ignore_mismatched_sizes": True}
    try:
        with quiet_hub():
            model, info = model_class.from_pretrained(
                source, use_safetensors=safe, output_loading_info=True, **settings
            )
    except Exception as error:  # the two libraries and safetensors raise a dozen types on damaged weights
        raise ModelError(f"cannot read {model_class.__name__} from {source}: {error}") from error
    whole: nn.Module = model
    _require_all(whole, info, source, unused)
    try:
        require_finite(dict(whole.named_parameters()))
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    if read_elsewhere is not None:
        over = sorted(
            name for name in map(str, info["unexpected_keys"]) if not name.startswith(read_elsewhere)
        )
        if over:
            log.warning(
                "%s: %d tensors have no place in %s and are passed over, first %s",
                *(source, len(over), type(whole).__name__, ", ".join(over[:3])),
            )
    return whole


def _require_all(
    model: nn.Module, info: Mapping[str, Any], source: Path | str, unused: tuple[str, ...]
) -> None:
    """Check that every tensor that is used was read, by what transformers or diffusers tell of it."""
    misfits = (f"{name}, which is {(*got,)} and not {(*due,)}" for name, got, due in info["mismatched_keys"])
    for problem, names in (("missing keys", info["missing_keys"]), ("keys of another shape", misfits)):
        found = sorted(name for name in map(str, names) if not any(part in name for part in unused))
        if found:
            raise ModelError(
                f"{source} does not hold a whole {type(model).__name__}: {len(found)} {problem}, first "
                f"{', '.join(found[:3])}"
            )


def require_finite(weights: Mapping[str, Tensor]) -> None:
    """Check that there is neither NaN nor infinity among weights.

    Raises:
        ModelError: there is, or there was a value beyond the range of their precision.
    """
    for name, weight in weights.items():
        # Extremes are found in one pass without a copy; NaN becomes both of them.
        if weight.is_floating_point() and weight.numel() and not weight.is_meta:
            low, high = weight.detach().aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise ModelError(
                    f"{name} holds NaN or infinity in {str(weight.dtype).removeprefix('torch.')}: the file "
                    "is damaged, or mllm.dtype is too narrow for it"
                )


def read_tokenizer(source: Path | str, *, revision: str | None = None) -> Any:
    """The tokenizer in a `save_pretrained` folder (a path), or of a hub id (a string).

    Raises:
        ModelError: there is none, or it is damaged.
    """
    from transformers import AutoTokenizer

    if isinstance(source, Path):
        if not source.is_dir():
            raise ModelError(f"missing weights: there is no folder {source}")
        if not (source / "tokenizer_config.json").is_file():
            raise ModelError(f"no tokenizer in {source}: tokenizer_config.json is missing")
    try:
        with quiet_hub():
            return AutoTokenizer.from_pretrained(source, **_where(source, revision))
    except Exception as error:  # damaged files surface as JSON, tokenizers and import errors alike
        raise ModelError(f"cannot read the tokenizer in {source}: {error}") from error


def _where(source: Path | str, revision: str | None) -> dict[str, Any]:
    if isinstance(source, Path):
        return {"local_files_only": True}
    where: dict[str, Any] = {} if revision is None else {"revision": revision}
    return where if hub_answers() else where | {"local_files_only": True}


def require_weights(folder: Path, *, torch_files: bool = False) -> bool:
    """Whether a model's folder holds safetensors; False if it holds torch's own files and these will do.

    Raises:
        ModelError: it holds neither, or no config.
    """
    if not folder.is_dir():
        raise ModelError(f"missing weights: there is no folder {folder}")
    if not (folder / "config.json").is_file():
        raise ModelError(f"missing weights: {folder} holds no config.json")
    safe = any(folder.glob("*.safetensors"))
    if not safe and not (torch_files and any(folder.glob(TORCH_FILES))):
        raise ModelError(f"missing weights: {folder} holds no .safetensors file")
    return safe


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep the libraries' load reports and progress bars off the screen; errors still show.

    A library that has not been imported is left so: diffusers is not needed for an answer in words.
    """
    libraries = [sys.modules[name] for name in HUB_LOGGING if name in sys.modules]
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()
