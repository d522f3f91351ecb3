"""Folders of models on this disk or on the hub, whose parts are fetched when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nam.errors import ModelError, first_line
from nam.mllm.online import hub_answers, unreachable
from nam.mllm.parts import TORCH_FILES

#: What is fetched of a part: configs, tokenizers, weights; never a program.
FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors")

#: The same weights in other forms.
OTHER_FORMS = ("*.fp16.*", "*non_ema*", "*flax*", "tf_*")


@dataclass(frozen=True)
class HubFolder:
    """A repository of the hub, as a folder: `folder / "unet"` is that part on this disk.

    Attributes:
        id: Such as "facebook/opt-6.7b".
        revision: Branch, tag or commit; None for the main branch.
    """

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.id

    def __truediv__(self, part: str) -> Path:
        """The folder of a part, fetched unless it is there.

        Raises:
            ModelError: it cannot be fetched.
        """
        return self._fetch([f"{part}/{pattern}" for pattern in FILES]) / part

    def root(self) -> Path:
        """The repository of a single model; torch's own weights only where there are no safetensors.

        Raises:
            ModelError: it cannot be fetched.
        """
        folder = self._fetch(FILES)
        return folder if any(folder.glob("*.safetensors")) else self._fetch((*FILES, TORCH_FILES))

    def _fetch(self, patterns: Sequence[str]) -> Path:
        from huggingface_hub import snapshot_download

        online = hub_answers()
        try:
            fetched = snapshot_download(
                self.id,
                revision=self.revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(OTHER_FORMS),
                local_files_only=not online,
            )
        except Exception as error:  # a wrong id and a private repository surface as many types
            if not online:
                raise ModelError(unreachable(self.id)) from error
            raise ModelError(
                f"{self.id} is neither a folder nor can it be fetched: {first_line(error)}"
            ) from error
        return Path(fetched)


#: Where parts of a model are.
Folder = Path | HubFolder


def model_folder(source: str | Path) -> Folder:
    """A folder on this disk if there is one of that name, else the repository of the hub of that id."""
    path = Path(source).expanduser()
    return path if path.is_dir() or isinstance(source, Path) else HubFolder(source)


def origin_of(folder: Folder, part: str = "") -> Path | str:
    """Where a part of a model is: on this disk, or its place on the hub, which is not asked."""
    if isinstance(folder, Path):
        return folder / part
    return f"{folder.id}@{folder.revision or 'main'}/{part}".removesuffix("/")


def model_root(source: str | Path) -> Path:
    """The folder of a single model, fetched if it is a hub id.

    Raises:
        ModelError: it cannot be fetched.
    """
    folder = model_folder(source)
    return folder if isinstance(folder, Path) else folder.root()
