"""GILL (Koh et al. 2023): an LM that sees through visual tokens and draws through [IMG] tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nam.errors import InputError
from nam.mllm.base import MLLM, Draw, Replayed
from nam.mllm.config import GillConfig
from nam.mllm.decode import Decoded, decode_greedily, last_hidden, positions_of
from nam.mllm.diffusion import Diffusion
from nam.mllm.gill_state import read_state, retrieval_head, write_state
from nam.mllm.layout import Layout
from nam.mllm.mapper import GILLMapper
from nam.mllm.parts import LazyParts
from nam.mllm.prompts import PromptCodec
from nam.mllm.requests import Request, read_samples, to_generations
from nam.types import PICTURE_ID, DrawSettings, Generation, Sample


class GILL(MLLM):
    """A frozen GILL: language model, vision tower, visual tokens, [IMG] tokens, mapper, picture generator.

    The [IMG] tokens are the last rows of the (tied) embedding, which is resized here to the codec's
    vocabulary. Until `load_gill_state` is called, visual tokens, [IMG] rows and mapper are random.

    Args:
        name: What reports call it.
        config: Sizes and conventions.
        language_model: OPTForCausalLM, or a causal LM like it.
        codec: Prompts to ids, with the [IMG] tokens.
        vision: Holds the vision tower under "vision"; read when a picture comes in.
        diffusion: The picture generator; read when a picture is drawn.
    """

    def __init__(
        self,
        *,
        name: str,
        config: GillConfig,
        language_model: Any,
        codec: PromptCodec,
        vision: LazyParts,
        diffusion: Diffusion,
    ) -> None:
        super().__init__(name=name, language_model=language_model, tokenizer=codec.tokenizer)
        self.config = config
        self.codec = codec
        if language_model.get_input_embeddings().num_embeddings < len(codec.tokenizer):
            language_model.resize_token_embeddings(len(codec.tokenizer), mean_resizing=False)
        text_config = language_model.config.get_text_config(decoder=True)
        self.context: int = text_config.max_position_embeddings
        hidden = text_config.hidden_size
        self.visual_embeddings = nn.Linear(config.vision_dim, config.n_visual_tokens * hidden)
        self.mapper = GILLMapper(
            in_dim=hidden,
            out_dim=config.gen_emb_dim,
            num_queries=config.num_clip_tokens,
            dim=config.mapper_dim,
            layers=config.mapper_layers,
            heads=config.mapper_heads,
        )
        self.retrieval = retrieval_head(config, hidden) if config.ret_emb_dim else None
        self.vision = vision
        self.diffusion = diffusion

    # --- the pieces of the forward pass -------------------------------------------------------------

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Input embeddings (..., H) of token ids (...)."""
        embeds: Tensor = self.language_model.get_input_embeddings()(ids)
        return embeds

    def img_embeds(self) -> Tensor:
        """Input embeddings of the [IMG] tokens, (8, H)."""
        return self.embed_tokens(torch.tensor(self.codec.img_ids, device=self.device))

    def visual_tokens(self, pixels: Tensor) -> Tensor:
        """Soft tokens (P, n_visual_tokens, H) of normalised pictures (P, 3, S, S)."""
        weight = self.visual_embeddings.weight
        seen = self.vision.get("vision", like=weight)(pixel_values=pixels.to(weight)).pooler_output
        return self.visual_embeddings(seen).unflatten(-1, (self.config.n_visual_tokens, -1))

    def embed_prompt(
        self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the language model reads: inputs_embeds (B, T, H), attention mask and positions (B, T).

        Args:
            input_ids: (B, T); `PICTURE_ID` stands at each place of a picture's soft tokens.
            attention_mask: (B, T), 0 at padding.
            pixel_values: All normalised pictures (P, 3, S, S), in the order of their places.

        Raises:
            InputError: the places do not fit the pictures.
        """
        places = input_ids == PICTURE_ID
        embeds = self.embed_tokens(input_ids.clamp(min=0))
        pictures = 0 if pixel_values is None else len(pixel_values)
        if int(places.sum()) != pictures * self.config.n_visual_tokens:
            raise InputError(
                f"{pictures} pictures of {self.config.n_visual_tokens} tokens do not fit "
                f"{int(places.sum())} places of picture tokens"
            )
        if pixel_values is not None:
            visual = self.visual_tokens(pixel_values).flatten(0, 1).to(embeds.dtype)
            embeds = embeds.masked_scatter(places[..., None], visual)
        return embeds, attention_mask, positions_of(attention_mask)

    def conditioning(self, hidden_img: Tensor, input_emb_img: Tensor | None = None) -> Tensor:
        """The picture generator's conditioning (B, Q, E), on its device.

        Args:
            hidden_img: Last hidden states at the [IMG] positions, (B, 8, H).
            input_emb_img: Input embeddings of the [IMG] tokens, (B, 8, H) or (8, H); None for the model's.
        """
        embeds = self.img_embeds() if input_emb_img is None else input_emb_img
        return self.diffusion.parts.place(self.mapper(hidden_img, embeds))

    def render(
        self,
        hidden_img: Tensor,
        noise: Tensor,
        settings: DrawSettings,
        *,
        grad_steps: int | None = None,
        checkpoint: bool = False,
    ) -> Tensor:
        """Pixels (B, 3, H, W) of last hidden states (B, 8, H): mapper, denoising, decoder.

        The differentiable path: with gradients enabled, pixels can be differentiated by `hidden_img`.
        0 is black, 1 is white, and values are not clipped. See `nam.mllm.sampler.denoise` for the options.
        """
        cond = self.conditioning(hidden_img)
        latents = self.diffusion.sample(cond, noise, settings, grad_steps=grad_steps, checkpoint=checkpoint)
        return self.diffusion.decode(latents)

    # --- generate and replay ------------------------------------------------------------------------

    def _answer(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int,
        draw: Draw,
        steps: int | None,
        guidance: float | None,
    ) -> list[Generation]:
        settings = None if draw is False else self.diffusion.settings(steps=steps, guidance=guidance)
        requests = read_samples(
            samples, codec=self.codec, context=self.context, max_new_tokens=max_new_tokens
        )
        if not requests:
            return []
        with torch.inference_mode():
            decoded = self._decode(requests, force_img=draw is True)
            latents = pictures = None
            if settings is not None and decoded.img_rows:
                cond = self.conditioning(decoded.hidden)
                noise = self.diffusion.noise([requests[row].seed for row in decoded.img_rows], like=cond)
                latents = self.diffusion.sample(cond, noise, settings)
                pictures = self.diffusion.decode(latents)
        return to_generations(
            requests, decoded, codec=self.codec, settings=settings, latents=latents, pictures=pictures
        )

    def _replay(self, generations: Sequence[Generation]) -> Replayed:
        embeds, mask = self._embed([g.token_ids for g in generations], [g.input_pixels for g in generations])
        self.announce(Layout.of_mask(mask, starts=[g.spans.answer.start - 1 for g in generations]))
        hidden = last_hidden(self.language_model, embeds, mask, positions_of(mask))
        offsets = tuple(mask.shape[1] - len(generation.token_ids) for generation in generations)
        return Replayed(hidden, mask, offsets)

    def _embed(
        self, sequences: Sequence[Sequence[int]], pixels: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        ids, mask = self.codec.pad(sequences)
        given = [one.reshape(-1, *one.shape[-3:]) for one in pixels if one is not None]
        embeds, mask, _ = self.embed_prompt(
            ids.to(self.device), mask.to(self.device), torch.cat(given).to(self.device) if given else None
        )
        return embeds, mask

    def _decode(self, requests: Sequence[Request], *, force_img: bool) -> Decoded:
        embeds, mask = self._embed([r.encoded.ids for r in requests], [r.pixels for r in requests])
        return decode_greedily(
            self.language_model,
            inputs_embeds=embeds,
            mask=mask,
            limits=[request.limit for request in requests],
            end_ids=self.codec.end_ids,
            img_ids=self.codec.img_ids,
            banned_ids=(self.codec.pad_id,),
            force_img=force_img,
            announce=self.announce,
        )

    # --- the trained part ---------------------------------------------------------------------------

    def gill_state_dict(self) -> dict[str, Tensor]:
        """What GILL trains, under the names of its published checkpoint; [IMG] rows, not the embedding."""
        return read_state(self)

    def load_gill_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `gill_state_dict` gives, in any precision; see `nam.mllm.gill_state.write_state`."""
        write_state(self, state)
