"""Any image-text-to-text model of transformers, and any plain causal one: it answers in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from nam.checks import whole
from nam.errors import InputError, ModelError
from nam.mllm.base import MLLM, Draw, Replayed
from nam.mllm.chat import Chat, Encoded
from nam.mllm.layout import Layout
from nam.types import Finish, Generation, Sample, Spans


class VLM(MLLM):
    """A frozen model of transformers that reads words, and pictures where it can, and answers in words.

    It generates through its own `generate`, greedily; of its own generation settings the end tokens count.

    Args:
        name: What reports call it.
        language_model: The whole model, vision tower included.
        chat: Between prompts and what it reads.

    Raises:
        ModelError: its config does not say how many positions it reads.
    """

    draws: ClassVar[bool] = False

    def __init__(self, *, name: str, language_model: Any, chat: Chat) -> None:
        super().__init__(name=name, language_model=language_model, tokenizer=chat.tokenizer)
        self.chat = chat
        ends = language_model.generation_config.eos_token_id
        ends = chat.tokenizer.eos_token_id if ends is None else ends
        self.eos_ids: tuple[int, ...] = tuple(ends) if isinstance(ends, list | tuple) else (ends,)
        context = getattr(
            language_model.config.get_text_config(decoder=True), "max_position_embeddings", None
        )
        if not isinstance(context, int):
            raise ModelError(f"the config of {name} does not say how many positions it reads")
        self.context = context
        language_model.generation_config = self._settings(context)

    def _answer(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int,
        draw: Draw,
        steps: int | None,
        guidance: float | None,
    ) -> list[Generation]:
        if draw not in (False, "auto"):
            raise InputError(f"{self.name} answers in words alone; set draw=auto or draw=false")
        whole("max_new_tokens", max_new_tokens, least=1)
        if not samples:
            return []
        asked = [self._read(sample, alone=len(samples) == 1) for sample in samples]
        limits = [min(max_new_tokens, self.context - len(one.ids)) for one in asked]
        with torch.inference_mode():
            progress = self._decode(asked, limits)
        found = zip(samples, asked, progress.answers, progress.finish, strict=True)
        return [self._generation(*parts) for parts in found]

    def _replay(self, generations: Sequence[Generation]) -> Replayed:
        inputs = [
            {} if one.input_pixels is None else {"pixel_values": one.input_pixels, **one.input_extras}
            for one in generations
        ]
        ids = [one.token_ids for one in generations]
        # Padding behind the end, where a causal model does not look, leaves every position its own number.
        batch = self._collate(ids, inputs, side="right")
        mask = batch["attention_mask"]
        self.announce(Layout.of_mask(mask, starts=[one.spans.answer.start - 1 for one in generations]))
        hidden = self._hidden(batch)
        length = mask.shape[1]
        offsets = tuple(length - len(one) for one in ids)
        if any(offsets):
            rows = zip(hidden, mask, offsets, strict=True)
            pairs = [(line.roll(shift, 0), kept.roll(shift, 0)) for line, kept, shift in rows]
            hidden, mask = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return Replayed(hidden, mask, offsets)

    def _collate(
        self, ids: Sequence[Sequence[int]], inputs: Sequence[Mapping[str, Tensor]], *, side: str
    ) -> dict[str, Tensor]:
        """What the model is called with for several sequences; see `Chat.collate`."""
        return self.chat.collate(ids, inputs, side=side, like=self.unembedding)

    def _hidden(self, batch: dict[str, Tensor]) -> Tensor:
        """Last hidden states (B, T, H) of what `_collate` gives."""
        hidden: Tensor = self.language_model.base_model(**batch, use_cache=False).last_hidden_state
        return hidden

    def _generate(self, **settings: Any) -> None:
        """What transformers generates; `settings` watch it."""
        self.language_model.generate(**settings)

    def _never_said(self) -> set[int]:
        """Tokens that are never chosen for an answer in words."""
        return {self.chat.pad_id, *self.chat.placeholder_ids}

    def _read(self, sample: Sample, *, alone: bool) -> Encoded:
        try:
            whole("seed", sample.seed, least=0, most=2**63 - 1)
            if sample.pictures:
                raise InputError(f"{self.name} is asked about one picture at a time, as image")
            encoded = self.chat.encode(sample.prompt, sample.image)
            if len(encoded.ids) >= self.context:
                raise InputError(
                    f"the prompt has {len(encoded.ids)} tokens ({encoded.picture} of them a picture's); at "
                    f"most {self.context - 1} fit: the context of {self.context} must also hold an answer"
                )
        except InputError as error:
            if alone:
                raise
            raise InputError(f"sample {sample.id}: {error}") from error
        return encoded

    def _generation(
        self, sample: Sample, encoded: Encoded, words: list[int], finish: Finish | None
    ) -> Generation:
        spans = Spans.of_lengths(
            system=encoded.system, picture=encoded.picture, text=encoded.text, answer=len(words), img=0
        )
        extras = {key: value.clone() for key, value in encoded.inputs.items()}
        return Generation(
            prompt=encoded.prompt,
            text=self.chat.decode(words),
            token_ids=(*encoded.ids, *words),
            spans=spans,
            finish=finish or "length",
            seed=int(sample.seed),
            input_pixels=extras.pop("pixel_values", None),
            input_extras=extras,
        )

    def _decode(self, asked: Sequence[Encoded], limits: Sequence[int]) -> _Progress:
        batch = self._collate([one.ids for one in asked], [one.inputs for one in asked], side="left")
        progress = _Progress(Layout.of_mask(batch["attention_mask"]), self.eos_ids, limits)

        def announce(module: Any, given: Any) -> None:
            self.announce(progress.layout)

        handle = self.language_model.get_decoder().register_forward_pre_hook(announce)
        try:
            self._generate(
                **batch, generation_config=self._settings(max(limits)), stopping_criteria=[progress]
            )
        finally:
            handle.remove()
        return progress

    def _settings(self, longest: int) -> Any:
        """Greedy decoding of so many tokens at most; padding and placeholders are never chosen."""
        from transformers import GenerationConfig

        never = self._never_said() - set(self.eos_ids)
        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=longest,
            eos_token_id=list(self.eos_ids),
            pad_token_id=self.chat.pad_id,
            suppress_tokens=sorted(never) or None,
        )


@dataclass
class _Progress:
    """Watches `generate` token by token, as one of its stopping criteria.

    Attributes:
        layout: Of the next forward pass.
        ends: End tokens.
        limits: Most words of each row's answer, at least 1.
        answers, finish: Of each row, so far.
    """

    layout: Layout
    ends: Sequence[int]
    limits: Sequence[int]
    answers: list[list[int]] = field(init=False)
    finish: list[Finish | None] = field(init=False)

    def __post_init__(self) -> None:
        self.answers = [[] for _ in self.limits]
        self.finish = [None] * len(self.limits)

    def __call__(self, input_ids: Tensor, scores: Any, **settings: Any) -> Tensor:
        """Which rows are done, (B,) bool; each row ends at its own end, whatever the others do."""
        added = [0] * len(self.limits)
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if self.finish[row] is not None:
                continue
            if token in self.ends:
                self.finish[row] = "stop"
                continue
            self.answers[row].append(token)
            added[row] = 1
            if len(self.answers[row]) == self.limits[row]:
                self.finish[row], added[row] = "length", 0
        self.layout = self.layout.then(added) if any(added) else self.layout
        return torch.tensor([reason is not None for reason in self.finish], device=input_ids.device)
