"""What a GILL model's folder says about it: sizes, sampler, conventions (its `config.json`)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nam.checks import whole
from nam.errors import ConfigError, ModelError, nearest

#: Name of the file in a model's folder.
CONFIG_FILE = "config.json"

#: Pixels as CLIP reads them.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class GillConfig:
    """Sizes and conventions of a GILL model; the defaults are those of the embedded `tiny_gill`.

    Attributes:
        vision_dim: Width of the vision tower's pooled output (GILL: 1024).
        n_visual_tokens: Soft tokens that a picture becomes (GILL: 4).
        num_img_tokens: [IMG0], [IMG1], ... in the vocabulary.
        num_clip_tokens: Positions of the generator's text conditioning (GILL: 77).
        gen_emb_dim: Width of that conditioning (GILL: 768).
        mapper_dim, mapper_layers, mapper_heads: Sizes of the mapper (GILL: 512, 4, 4).
        ret_emb_dim: Width of the retrieval head (GILL: 256), which is kept and not used; 0 for none.
        image_size: Side of the square picture that the vision tower reads, in pixels.
        image_fit: How a picture becomes square: "squash", or "crop" (CLIP: the middle of its longer side).
        image_mean, image_std: Per channel normalisation of its pixels, which are in [0, 1].
        latent_mean, latent_std: Per channel statistics of the autoencoder's raw latents; the U-Net sees
            (latents - mean) / std. None: those in the U-Net's folder (`latent_statistics.json`); without that
            file, the autoencoder's own scaling and shift factor.
        sampler: "ddim", "dpm++", or None for the class that the scheduler folder names.
        steps, guidance: Default number of denoising steps and classifier-free guidance scale.
        text_tower: Folder of the text tower that conditions the generator.
        text_tokenizer: Folder of its tokenizer; None for the text tower's.
        mask_captions: Whether that tower's padding is masked (GILL: no, as in Stable Diffusion).
        extra_tokens: Special tokens that go into the vocabulary before [IMG0] (GILL: "<|image|>").
        bos_first: Whether the begin token stands before a leading picture, or behind it (GILL).
        picture_mark: Stands in a prompt where each of its pictures is; without it they come before the words.
        end_words: What ends an answer beside the end token; a token each (GILL: a line's end).
        prompt_ends: A prompt ends in one of these characters, else `prompt_end` is added; "" for no rule.
        behind_prompt: Stands behind every prompt (GILL: nothing).
        caption_prompt: What asks for a caption; the only prompt that needs no end character.
    """

    vision_dim: int = 128
    n_visual_tokens: int = 5
    num_img_tokens: int = 8
    num_clip_tokens: int = 16
    gen_emb_dim: int = 128
    mapper_dim: int = 128
    mapper_layers: int = 2
    mapper_heads: int = 4
    ret_emb_dim: int = 0
    image_size: int = 64
    image_fit: str = "squash"
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None
    sampler: str | None = None
    steps: int = 20
    guidance: float = 3.0
    text_tower: str = "clip"
    text_tokenizer: str | None = None
    mask_captions: bool = True
    extra_tokens: tuple[str, ...] = ()
    bos_first: bool = True
    picture_mark: str = "<|image|>"
    end_words: tuple[str, ...] = ()
    prompt_ends: str = ".?:"
    prompt_end: str = " ."
    behind_prompt: str = ""
    caption_prompt: str = "a picture of"

    def __post_init__(self) -> None:
        sizes = ("vision_dim", "n_visual_tokens", "num_img_tokens", "num_clip_tokens", "gen_emb_dim")
        for name in (*sizes, "mapper_dim", "mapper_layers", "mapper_heads", "image_size", "steps"):
            if getattr(self, name) < 1:
                raise ModelError(f"{CONFIG_FILE}: {name} must be at least 1, got {getattr(self, name)}")
        if self.mapper_dim % self.mapper_heads:
            raise ModelError(
                f"{CONFIG_FILE}: mapper_dim must be a multiple of mapper_heads, "
                f"got {self.mapper_dim} and {self.mapper_heads}"
            )
        if self.ret_emb_dim < 0:
            raise ModelError(f"{CONFIG_FILE}: ret_emb_dim must be at least 0, got {self.ret_emb_dim}")
        if self.image_fit not in ("squash", "crop"):
            raise ModelError(f'{CONFIG_FILE}: image_fit must be "squash" or "crop", got {self.image_fit!r}')
        if (self.latent_mean is None) != (self.latent_std is None):
            raise ModelError(f"{CONFIG_FILE}: latent_mean and latent_std go together; set both or neither")
        if self.latent_std is not None and min(self.latent_std) <= 0:
            raise ModelError(f"{CONFIG_FILE}: latent_std must be positive, got {list(self.latent_std)}")

    @property
    def img_tokens(self) -> tuple[str, ...]:
        """[IMG0], [IMG1], ..."""
        return tuple(f"[IMG{i}]" for i in range(self.num_img_tokens))

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """All special tokens that go into the vocabulary, in the order of their ids."""
        return (*self.extra_tokens, *self.img_tokens)

    @classmethod
    def load(cls, folder: Path) -> GillConfig:
        """Read `config.json` of a model's folder.

        Raises:
            ModelError: the file is missing, is not JSON, or holds an unknown key or a wrong value.
        """
        path = folder / CONFIG_FILE
        values = read_json(path)
        values.pop("model_type", None)
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ModelError(f"{path}: unknown key {key!r} ({nearest(key, known)})")
        try:
            settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**settings)
        except TypeError as error:
            raise ModelError(f"{path}: a value has the wrong type ({error})") from error

    def save(self, folder: Path) -> None:
        """Write `config.json` into a model's folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = {"model_type": "gill", **dataclasses.asdict(self)}
        (folder / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


#: What a family says about its sizes.
Config = TypeVar("Config", bound=GillConfig)


def with_drawing(config: Config, *, sampler: str | None, steps: int | None, guidance: float | None) -> Config:
    """The config with other settings for pictures; None keeps its own.

    Raises:
        ConfigError: steps that are no integer of at least 1.
    """
    if steps is not None:
        steps = whole("mllm.steps", steps, least=1, error=ConfigError)
    changes: dict[str, Any] = {"sampler": sampler, "steps": steps, "guidance": guidance}
    return dataclasses.replace(config, **{key: value for key, value in changes.items() if value is not None})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model.

    Raises:
        ModelError: the file is missing or holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; is this a model's folder?") from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values
