"""Processors of transformers for pictures and words alone: no torchvision, no video part is needed."""

from __future__ import annotations

from typing import Any

from nam.errors import ModelError, first_line
from nam.mllm.parts import quiet_hub

#: Processors whose own class needs a package for videos, and the one that writes the same for pictures.
STAND_INS = {"SmolVLMProcessor": "Idefics3Processor"}


class PicturesOnly:
    """Lets a processor be made without its video part."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """As in transformers, but for a video part that is not there."""
        if argument is None and "video" in argument_name:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]


def read_processor(source: str, *, config: Any, tokenizer: Any, revision: str | None, local: bool) -> Any:
    """The processor of an image-text-to-text model, with the PIL image processor.

    Args:
        source: Hub id or folder.
        config: The model's config.
        tokenizer: Its tokenizer.
        revision: Of a hub id.
        local: Ask no hub.

    Raises:
        ModelError: the model has no processor, or its processor cannot be made of these parts.
    """
    from transformers import PROCESSOR_MAPPING, AutoImageProcessor, ProcessorMixin

    where: dict[str, Any] = {"revision": revision or "main", "local_files_only": local}
    try:
        with quiet_hub():
            settings, _ = ProcessorMixin.get_processor_dict(source, **where)
            made_for = _class_of(settings.get("processor_class"), PROCESSOR_MAPPING.get(type(config), None))
            images = AutoImageProcessor.from_pretrained(source, backend="pil", **where)
            parts = {"image_processor": images, "tokenizer": tokenizer}
            given = [parts.get(name) for name in made_for.get_attributes()]
            kind: Any = type(made_for.__name__, (PicturesOnly, made_for), {})
            return kind.from_args_and_dict(given, settings)
    except ModelError:
        raise
    except Exception as error:  # missing packages, files and tokens surface as a dozen types
        raise ModelError(
            f"the processor of {source} cannot be made without torchvision and video ({first_line(error)}); "
            "choose another model with mllm.id"
        ) from error


def _class_of(named: str | None, default: Any) -> Any:
    import transformers

    name = str(named or getattr(default, "__name__", "of this model"))
    found = getattr(transformers, STAND_INS.get(name, name), None)
    if found is None or not hasattr(found, "get_attributes"):
        raise ModelError(f"this version of transformers has no processor {name}")
    return found
