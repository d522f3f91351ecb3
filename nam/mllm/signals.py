"""Models that see through soft tokens and draw through signal tokens, as GILL and NExT-GPT do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nam.errors import InputError
from nam.mllm.base import MLLM, Draw, Replayed
from nam.mllm.config import GillConfig
from nam.mllm.decode import Decoded, Signalled, decode_greedily, last_hidden, positions_of
from nam.mllm.diffusion import Diffusion
from nam.mllm.drawer import Drawer
from nam.mllm.layout import Layout
from nam.mllm.mapper import GILLMapper
from nam.mllm.parts import LazyParts
from nam.mllm.prompts import PromptCodec
from nam.mllm.requests import Drawn, Request, read_samples, to_generations
from nam.types import PICTURE_ID, DrawSettings, Generation, Medium, Sample


class SignalMLLM(MLLM, ABC):
    """A frozen model that draws: language model, vision tower, soft tokens, [IMG] tokens, mapper, generator.

    Words are added to the embedding here where the codec's vocabulary is larger. Until a checkpoint is
    loaded, soft tokens, new words and mapper are random.

    Args:
        name: What reports call it.
        config: Sizes and conventions.
        language_model: A decoder-only causal LM.
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
        self.mapper = self.new_mapper(config.gen_emb_dim, config.num_clip_tokens)
        self.vision = vision
        self.diffusion = diffusion

    def new_mapper(self, out_dim: int, num_queries: int) -> GILLMapper:
        """A random mapper to a conditioning of `num_queries` positions of width `out_dim`."""
        return GILLMapper(
            in_dim=self.visual_embeddings.out_features // self.config.n_visual_tokens,
            out_dim=out_dim,
            num_queries=num_queries,
            dim=self.config.mapper_dim,
            layers=self.config.mapper_layers,
            heads=self.config.mapper_heads,
        )

    # --- the pieces of the forward pass -------------------------------------------------------------

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Input embeddings (..., H) of token ids (...)."""
        embeds: Tensor = self.language_model.get_input_embeddings()(ids)
        return embeds

    def img_embeds(self) -> Tensor:
        """Input embeddings of the P [IMG] tokens, (P, H)."""
        return self.signal_embeds("image")

    def signal_embeds(self, medium: Medium) -> Tensor:
        """Input embeddings of the P tokens that announce what a medium draws, (P, H)."""
        return self.embed_tokens(torch.tensor(self.codec.signals[medium], device=self.device))

    @abstractmethod
    def see(self, pixels: Tensor) -> Tensor:
        """What the vision tower says of N normalised pictures (N, 3, S, S): (N, config.vision_dim)."""

    def visual_tokens(self, pixels: Tensor) -> Tensor:
        """Soft tokens (N, n_visual_tokens, H) of normalised pictures (N, 3, S, S)."""
        seen = self.see(pixels.to(self.visual_embeddings.weight))
        return self.visual_embeddings(seen).unflatten(-1, (self.config.n_visual_tokens, -1))

    def embed_prompt(
        self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the language model reads: inputs_embeds (B, T, H), attention mask and positions (B, T).

        Args:
            input_ids: (B, T); `PICTURE_ID` stands at each place of a picture's soft tokens.
            attention_mask: (B, T), 0 at padding.
            pixel_values: All normalised pictures (N, 3, S, S), in the order of their places.

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

    @property
    def drawers(self) -> dict[Medium, Drawer]:
        """What draws each medium that the model can draw."""
        return {"image": Drawer(self.mapper, self.diffusion, self.img_embeds)}

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
        drawers = self.drawers
        force = self._forced(draw, drawers)
        settings: dict[Medium, DrawSettings] = {}
        if draw is not False:
            wanted = drawers if force is None else {force: drawers[force]}
            settings = {
                medium: drawer.diffusion.settings(steps=steps, guidance=guidance)
                for medium, drawer in wanted.items()
            }
        requests = read_samples(
            samples, codec=self.codec, context=self.context, max_new_tokens=max_new_tokens
        )
        if not requests:
            return []
        with torch.inference_mode():
            decoded = self._decode(requests, force=force)
            drawn = {
                found.medium: self._draw(drawers[found.medium], found, settings[found.medium], requests)
                for found in decoded.signalled
                if found.medium in settings
            }
        return to_generations(requests, decoded, codec=self.codec, drawn=drawn)

    def _forced(self, draw: Draw, drawers: Mapping[Medium, Drawer]) -> Medium | None:
        """The medium that is drawn whatever the model announces."""
        if isinstance(draw, bool):
            return "image" if draw else None
        if draw == "auto":
            return None
        if draw not in drawers:
            raise InputError(f"{self.name} does not draw {draw}: it draws {', '.join(drawers)}")
        return draw

    def _draw(
        self, drawer: Drawer, found: Signalled, settings: DrawSettings, requests: Sequence[Request]
    ) -> Drawn:
        diffusion = drawer.diffusion
        cond = drawer.conditioning(found.hidden)
        noise = diffusion.noise([requests[row].seed for row in found.rows], like=cond)
        latents = diffusion.sample(cond, noise, settings)
        pixels = diffusion.decode(latents)
        pictures = [diffusion.picture(one) for one in pixels]
        return Drawn(settings, latents, pictures, diffusion.extras(pixels))

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

    def _decode(self, requests: Sequence[Request], *, force: Medium | None) -> Decoded:
        embeds, mask = self._embed([r.encoded.ids for r in requests], [r.pixels for r in requests])
        drawers, signals = self.drawers, self.codec.signals
        silent = [token for medium, ids in signals.items() if medium not in drawers for token in ids]
        return decode_greedily(
            self.language_model,
            inputs_embeds=embeds,
            mask=mask,
            limits=[request.limit for request in requests],
            end_ids=self.codec.end_ids,
            signals={medium: signals[medium] for medium in drawers},
            banned_ids=(*self.codec.banned_ids, *silent),
            force=force,
            announce=self.announce,
        )
