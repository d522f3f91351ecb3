"""Chameleon (Meta) and Anole (GAIR), which taught it to draw: words and picture tokens in one vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.chat import PromptChat
from nam.mllm.device_map import Device, MaxMemory
from nam.mllm.hub import HubFolder
from nam.mllm.one_vocabulary import OneVocabulary, codes_of
from nam.mllm.parts import require_finite
from nam.mllm.picture_tokens import Sampling
from nam.mllm.vlm_folder import read_parts, started

#: Where Anole's weights keep the decoder of pictures, which Chameleon's class does not have.
DECODER = "model.vqmodel.decoder."


class Chameleon(OneVocabulary):
    """A frozen Chameleon with a decoder of pictures.

    Args:
        decoder: From features (B, C, h, w) to pictures (B, 3, H, W).
        settings: As of `OneVocabulary`.
    """

    def __init__(self, *, decoder: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.decoder = decoder

    def drawing_prompt(self, words: str) -> tuple[list[int], int]:
        """The prompt as for words, and the token that begins a picture."""
        encoded = self.chat.encode(words, None)
        return [*encoded.ids, self.begin_id], encoded.system

    def free_ids(self, ids: Sequence[int]) -> list[int]:
        """The begin token and the token that begins a picture alone."""
        return [self.tokenizer.bos_token_id, self.begin_id]

    def paint(self, codes: Tensor) -> Tensor:
        """See `Unified.paint`."""
        vq = self.language_model.model.vqmodel
        features = vq.quantize.embedding(codes).permute(0, 3, 1, 2).contiguous()
        painted: Tensor = self.decoder(vq.post_quant_conv(features).float())
        return painted


def build_decoder(vq_config: Any) -> nn.Module:
    """The decoder that mirrors the encoder of a Chameleon's pictures, with random weights.

    It is Janus', of the same making, without attention between the levels.

    Raises:
        ModelError: the encoder has attention between its levels, unlike every published one.
    """
    from transformers import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAEDecoder

    if vq_config.attn_resolutions:
        raise ModelError(f"a picture decoder with attention at {vq_config.attn_resolutions} is not supported")
    names = ("latent_channels", "base_channels", "channel_multiplier", "num_res_blocks")
    decoder: nn.Module = JanusVQVAEDecoder(
        JanusVQVAEConfig(**{name: getattr(vq_config, name) for name in names})
    )
    for level in decoder.up:  # type: ignore[union-attr]
        level.attn = nn.ModuleList()
    return decoder


def turned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a decoder with its levels counted from the other end, as Anole's and Janus' differ."""
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("up."))

    def other(found: re.Match[str]) -> str:
        return f"up.{levels - 1 - int(found[1])}."

    return {re.sub(r"^up\.(\d+)\.", other, name): value for name, value in state.items()}


def read_decoder(folder: Path, vq_config: Any) -> nn.Module:
    """The decoder of pictures among a model's safetensors, in float32.

    Raises:
        ModelError: there is none (as in Chameleon's own weights), it is of another kind, or holds NaN.
    """
    from safetensors import safe_open

    state = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (it is no mapping)
                if key.startswith(DECODER):
                    state[key.removeprefix(DECODER)] = file.get_tensor(key)
    if not state:
        raise ModelError(
            f"{folder} has no picture decoder ({DECODER}*): Chameleon's own weights are for words alone; set "
            "mllm.id=leloy/Anole-7b-v0.1-hf to draw, or mllm=vlm for words"
        )
    require_finite({f"{DECODER}{name}": value for name, value in state.items()})
    decoder = build_decoder(vq_config)
    try:
        decoder.load_state_dict(turned(state))
    except RuntimeError as error:
        raise ModelError(f"the picture decoder in {folder} is of another kind: {error}") from error
    return decoder


def read_chameleon(
    *,
    id: str | Path,
    revision: str | None = None,
    dtype: str = "bfloat16",
    device: Device = "cpu",
    max_memory: MaxMemory | None = None,
    caption_prompt: str = "Describe this picture.",
    guidance: float = 3.0,
    temperature: float = 0.7,
    top_p: float | None = 0.9,
) -> Chameleon:
    """A frozen Anole, or another Chameleon with a picture decoder, its neurons found and probed.

    Args:
        id: Hub id such as "leloy/Anole-7b-v0.1-hf", or a folder in the layout of `save_pretrained`.
        revision, dtype, device, max_memory, caption_prompt: As in `nam.mllm.vlm_folder.read_vlm`.
        guidance, temperature, top_p: Of `Sampling`, for pictures; as published.

    Raises:
        ModelError, ConfigError: as `nam.mllm.vlm_folder.read_vlm`; there is no picture decoder; or a setting
            of pictures is out of range.
    """
    sampling = Sampling(guidance=guidance, temperature=temperature, top_p=top_p)
    settings: dict[str, Any] = {"revision": revision, "dtype": dtype, "caption_prompt": caption_prompt}
    parts = read_parts(id, kinds=("chameleon",), chat=PromptChat, read_elsewhere=(DECODER,), **settings)
    vq = parts.config.vq_config
    mapping = parts.language_model.model.vocabulary_mapping.img2bpe
    model = Chameleon(
        name=parts.name,
        language_model=parts.language_model,
        chat=parts.chat,
        grid=(vq.resolution // 2 ** (len(vq.channel_multiplier) - 1),) * 2,
        code_ids=codes_of(mapping, count=vq.num_embeddings),
        sampling=sampling,
        decoder=read_decoder(_folder_of(id, revision), vq),
    )
    return started(model, device, max_memory)


def _folder_of(id: str | Path, revision: str | None) -> Path:
    folder = Path(id).expanduser()
    return folder if folder.is_dir() else HubFolder(str(id), revision).root()
