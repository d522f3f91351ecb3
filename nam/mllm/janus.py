"""Janus and Janus-Pro (DeepSeek): words by one head, picture tokens by another with its own vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from nam.mllm.chat import PromptChat
from nam.mllm.device_map import Device, MaxMemory
from nam.mllm.picture_tokens import Sampling
from nam.mllm.unified import Unified
from nam.mllm.vlm_folder import read_parts, started


class Janus(Unified):
    """A frozen Janus; the constructor's arguments are those of `Unified`.

    In `Generation.token_ids` picture token c stands as V + c, behind the V words of the vocabulary. The
    generation head is not linear: a token's direction is the gradient of its logit by the last hidden state
    that predicted it, one backward pass through the head alone.
    """

    keeps_states: ClassVar[bool] = True

    @property
    def words(self) -> int:
        """Rows V of the words' embedding."""
        count: int = self.language_model.get_input_embeddings().num_embeddings
        return count

    def drawing_prompt(self, words: str) -> tuple[list[int], int]:
        """A turn of the user, the beginning of the answer, and the token that begins a picture."""
        text = self.chat.templated(words, has_picture=False)
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        given = self.chat.processor(
            text=[text], generation_mode="image", add_special_tokens=special, return_tensors="pt"
        )
        ids: list[int] = given["input_ids"][0].tolist()
        return ids, self.chat.before(text, words, ids, special=special)

    def free_ids(self, ids: Sequence[int]) -> list[int]:
        """Padding in place of all but the begin token and the token that begins a picture."""
        kept = {self.tokenizer.bos_token_id, self.begin_id}
        return [token if token in kept else self.chat.pad_id for token in ids]

    def code_logits(self, hidden: Tensor) -> Tensor:
        """See `Unified.code_logits`: the generation head."""
        logits: Tensor = self.language_model.model.generation_head(hidden)
        return logits

    def embed_codes(self, codes: Tensor) -> Tensor:
        """See `Unified.embed_codes`: the generation embeddings behind their aligner."""
        embeds: Tensor = self.language_model.prepare_embeddings_for_image_generation(codes)
        return embeds

    def ids_of_codes(self, codes: Tensor) -> Tensor:
        """See `Unified.ids_of_codes`."""
        return codes + self.words

    def paint(self, codes: Tensor) -> Tensor:
        """See `Unified.paint`."""
        painted: Tensor = self.language_model.model.vqmodel.decode(codes.flatten(1))
        return painted

    def directions(self, ids: Tensor, states: Tensor | None) -> Tensor:
        """Gradients of the tokens' logits by the states, each by its own."""
        # Gradients are wanted, also from inside a loop that runs under inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            leaf = states.to(self.dtype).clone().requires_grad_()  # type: ignore[union-attr]
            logits = self.code_logits(leaf).gather(1, (ids.clone() - self.words)[:, None])
            (found,) = torch.autograd.grad(logits.sum(), leaf)
        return found

    def _generate(self, **settings: Any) -> None:
        from transformers import GenerationMixin

        # The class's own asks for a mode first, and warns of settings that it adds itself.
        GenerationMixin.generate(self.language_model, **settings)

    def _hidden(self, batch: dict[str, Tensor]) -> Tensor:
        ids = batch.pop("input_ids")
        drawn = ids >= self.words
        embeds = self.language_model.get_input_embeddings()(ids.masked_fill(drawn, 0))
        codes = self.embed_codes((ids[drawn] - self.words)[None])[0]
        embeds = embeds.masked_scatter(drawn[..., None], codes.to(embeds.dtype))
        return super()._hidden({**batch, "inputs_embeds": embeds})


def read_janus(
    *,
    id: str | Path,
    revision: str | None = None,
    dtype: str = "bfloat16",
    device: Device = "cpu",
    max_memory: MaxMemory | None = None,
    caption_prompt: str = "Describe this picture.",
    guidance: float = 5.0,
    temperature: float = 1.0,
) -> Janus:
    """A frozen Janus of transformers, its neurons found and probed.

    Args:
        id: Hub id such as "deepseek-community/Janus-Pro-7B", or a folder in the layout of `save_pretrained`.
        revision, dtype, device, max_memory, caption_prompt: As in `nam.mllm.vlm_folder.read_vlm`.
        guidance, temperature: Of `Sampling`, for pictures; as published.

    Raises:
        ModelError, ConfigError: as `nam.mllm.vlm_folder.read_vlm`; or a setting of pictures is out of range.
    """
    sampling = Sampling(guidance=guidance, temperature=temperature)
    parts = read_parts(
        id, revision=revision, dtype=dtype, caption_prompt=caption_prompt, kinds=("janus",), chat=PromptChat
    )
    model = Janus(
        name=parts.name,
        language_model=parts.language_model,
        chat=parts.chat,
        grid=(parts.config.vq_config.num_patches,) * 2,
        codes=parts.config.vq_config.num_embeddings,
        sampling=sampling,
    )
    return started(model, device, max_memory)
