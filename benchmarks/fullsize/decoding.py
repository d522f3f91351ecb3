"""What decoding costs a token, and what torch.compile and CUDA graphs make of it.

A token at a time over keys and values that stay in place (transformers' static cache), which both need. Every
variant starts from the same prompt, is warmed up, and its tokens are held against those of the plain one.
Hooks that are put on later are not in what was compiled or captured: recording needs the plain model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost.pairs import wall
from benchmarks.fullsize.timing import Table
from benchmarks.quality.rows import Measure, Row
from nam.mllm.decode import decode_greedily
from nam.mllm.gill import GILL

SECTION = "Decoding, a token at a time"

#: The next ids (B, 1) from the newest (B, 1) and their position (1,).
Advance = Callable[[Tensor, Tensor], Tensor]

#: Steps before a capture, as CUDA graphs want them.
WARM_UP = 3


class StaticDecoder:
    """Greedy decoding over keys and values in place.

    Args:
        model: A causal language model.
        prompt: Ids (B, T).
        tokens: To decode.
    """

    def __init__(self, model: Any, prompt: Tensor, *, tokens: int) -> None:
        from transformers import StaticCache

        self.model, self.prompt, self.tokens = model, prompt, tokens
        length = prompt.shape[1] + tokens
        self.columns = torch.arange(length, device=prompt.device)
        self.cache = StaticCache(config=model.config, max_cache_len=length)

    def read(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The likeliest next ids (B, 1) behind the newest ids (B, T) at positions (T,)."""
        rows = len(ids)
        mask = (self.columns <= positions[:, None]).expand(rows, 1, -1, -1)
        out = self.model.get_decoder()(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.expand(rows, -1),
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = self.model.get_output_embeddings()(out.last_hidden_state[:, -1:])
        return logits.argmax(-1)

    def start(self) -> tuple[Tensor, Tensor]:
        """Read the prompt: the first new ids (B, 1), and their position (1,)."""
        self.cache.reset()
        length = self.prompt.shape[1]
        return self.read(self.prompt, self.columns[:length]), self.columns[length : length + 1].clone()

    def run(self, advance: Advance) -> tuple[float, Tensor]:
        """Seconds of each step, and the ids (B, tokens), the prompt's own next one first."""
        ids, position = self.start()
        found = [ids]
        began = wall()
        for _ in range(self.tokens - 1):
            ids = advance(ids, position).clone()  # a graph writes the next ones into the same place
            position += 1
            found.append(ids)
        return (wall() - began) / (self.tokens - 1), torch.cat(found, dim=1)

    def captured(self) -> Advance:
        """`read` as one CUDA graph.

        Raises:
            RuntimeError: there is no GPU, or something in the model cannot be captured.
        """
        if self.prompt.device.type != "cuda":
            raise RuntimeError("CUDA graphs need a GPU")
        ids, position = (one.clone() for one in self.start())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.read(ids, position)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            chosen = self.read(ids, position)

        def advance(newest: Tensor, at: Tensor) -> Tensor:
            ids.copy_(newest)
            position.copy_(at)
            graph.replay()
            return chosen

        return advance


def variants(decoder: StaticDecoder) -> Mapping[str, Callable[[], Advance]]:
    """The same step, made in several ways."""
    return {
        "keys and values in place": lambda: decoder.read,
        "the same as one CUDA graph": decoder.captured,
        "torch.compile": lambda: torch.compile(decoder.read, dynamic=False),
        "torch.compile with CUDA graphs": lambda: torch.compile(
            decoder.read, dynamic=False, mode="reduce-overhead"
        ),
    }


@torch.no_grad()
def measure_decoding(
    mllm: GILL, *, batch: int, prompt: int, tokens: int, runs: int, bandwidth: float
) -> list[Row]:
    """Milliseconds a step of each variant, and the share of the device's copying that reading the weights is.

    Args:
        mllm: The model.
        batch: Rows that are decoded together.
        prompt: Their length.
        tokens: To decode in each.
        runs: Of which the median is taken.
        bandwidth: Of `copied_per_second`.
    """
    model: Any = mllm.language_model
    weights = weights_read(model)
    rows = f"{batch} row{'s' if batch > 1 else ''}"
    table = Table(SECTION)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, mllm.unembedding.shape[0], (batch, prompt), generator=generator).to(mllm.device)

    def add(name: str, seconds: list[float], note: str) -> None:
        table.add(name, Measure.median([1e3 * one for one in seconds], note=note), unit="ms a step")
        step = median(seconds)
        table.add(f"{name}: tokens", Measure(batch / step), unit="tokens/s")
        share = Measure(100 * weights / step / bandwidth, note=f"{weights / step / 1e9:.0f} GB/s of weights")
        table.add(f"{name}: of the bandwidth of a copy", share, unit="%")

    name = f"{rows}: as nam decodes"
    with table.attempt(name):
        add(name, [_step_of_ours(mllm, ids, tokens) for _ in range(runs + 1)][1:], "keys and values grow")
    decoder = StaticDecoder(model, ids, tokens=tokens)
    expected: Tensor | None = None
    for kind, make in variants(decoder).items():
        name = f"{rows}: {kind}"
        with table.attempt(name):
            began = wall()
            advance = make()
            for _ in range(2):  # what compiles does so at the first step or two
                decoder.run(advance)
            spent = wall() - began
            found = [decoder.run(advance) for _ in range(runs)]
            expected = found[0][1] if expected is None else expected
            same = 100 * float((found[-1][1] == expected).double().mean())
            note = f"{same:.0f} % of the tokens as the first; ready after {spent:.0f} s"
            add(name, [seconds for seconds, _ in found], note)
    return table.rows


def weights_read(model: Any) -> int:
    """Bytes of weights that one step reads: all but the tables of which it needs single rows."""
    parameters = {id(one): one for one in model.parameters()}
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.weight is not model.lm_head.weight:
            parameters.pop(id(module.weight), None)
    return sum(one.numel() * one.element_size() for one in parameters.values())


def _step_of_ours(mllm: GILL, ids: Tensor, tokens: int) -> float:
    """Seconds a step of `decode_greedily`, from the first token that it reads on."""
    passes, began = 0, 0.0

    def announced(_: object) -> None:
        nonlocal passes, began
        passes += 1
        if passes == 2:  # the first reads the prompt
            began = wall()

    decode_greedily(
        mllm.language_model,
        inputs_embeds=mllm.embed_tokens(ids),
        mask=torch.ones_like(ids),
        limits=[tokens] * len(ids),
        end_ids=(),
        signals={},
        banned_ids=(mllm.codec.pad_id,),
        force=None,
        announce=announced,
    )
    return (wall() - began) / (passes - 1)
