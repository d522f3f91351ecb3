"""Pictures drawn from words: the whole chain, and its parts alone, to see which one limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks.quality.bench import ASPECTS, Bench, match, noise_seeds, rng_for, scenes_of, shares
from benchmarks.quality.renders import classify
from benchmarks.quality.rows import Measure, Section, Spec
from nam.mllm.gill import GILL
from nam.mllm.parts import read_tokenizer
from nam.mllm.pictures import to_picture
from nam.world.dialogues import draw_request
from nam.world.language import Facts, canonical_facts, facts_of, parse
from nam.world.scene import NOUNS
from nam.world.tokenizer import encode_captions


@dataclass(frozen=True)
class Group:
    """Captions to draw from: how many things, of which split, in which phrasings."""

    key: str
    title: str
    things: int
    split: str
    held_out: bool


GROUPS = (
    Group("phrasings1", "one thing, held-out phrasings", 1, "train", True),
    Group("combinations1", "one thing, unseen combinations", 1, "test", False),
    Group("both1", "one thing, unseen combinations in held-out phrasings", 1, "test", True),
    Group("phrasings2", "two things, held-out phrasings", 2, "train", True),
    Group("combinations2", "two things, unseen combinations", 2, "test", False),
)
_ASPECTS = {1: ("nouns", "colours", "place", "everything"), 2: ("nouns", "things", "place", "everything")}
_TARGETS = {
    **{("phrasings1", a): t for a, t in (("nouns", 95.0), ("colours", 95.0), ("place", 98.0))},
    **{("both1", a): t for a, t in (("nouns", 95.0), ("colours", 95.0), ("place", 98.0))},
    ("combinations1", "everything"): 85.0,
    ("phrasings2", "nouns"): 80.0,
    ("combinations2", "nouns"): 80.0,
}


def requests(group: Group, seed: int, count: int) -> list[tuple[Facts, str]]:
    """What is to be drawn and how it is asked for."""
    rng = rng_for(group.key, seed)
    asked = [facts_of(scene) for scene in scenes_of(rng, count, things=group.things, split=group.split)]
    return [(facts, draw_request(facts, rng, held_out=group.held_out).prompt) for facts in asked]


def draw(bench: Bench) -> dict[str, Measure]:
    """Text -> language model -> [IMG] -> mapper -> diffusion -> picture -> judge."""
    found: dict[str, Measure] = {}
    for group in GROUPS:
        said, drawn = [], []
        for seed in bench.seeds:
            asked, prompts = zip(*requests(group, seed, bench.count), strict=True)
            answers = bench.ask(prompts, seed=seed, draw="auto", what=f"drawing, {group.title}")
            said.append([match(a, parse(g.text)) for a, g in zip(asked, answers, strict=True)])
            seen = bench.see([g.image for g in answers])
            drawn.append([match(a, f) for a, f in zip(asked, seen, strict=True)])
        found |= shares(group.key, drawn, _ASPECTS[group.things])
        found |= shares(f"{group.key}.said", said, ("everything",))
    return found


def text_states(mllm: GILL, captions: Sequence[str]) -> Tensor:
    """The text tower's conditioning (B, Q, E) of captions: what the mapper is trained to reproduce."""
    tokenizer = read_tokenizer(mllm.diffusion.folder / mllm.config.text_tower)
    ids, mask = encode_captions(tokenizer, captions, length=mllm.config.num_clip_tokens)
    tower = mllm.diffusion.parts.get("text_tower", like=mllm.unembedding)
    with torch.inference_mode():
        states: Tensor = tower(
            input_ids=ids, attention_mask=mask if mllm.config.mask_captions else None
        ).last_hidden_state
    return states


def draw_from_text_tower(bench: Bench) -> dict[str, Measure]:
    """The canonical captions of the unseen combinations, straight from the text tower to the U-Net, with the
    noise of the whole chain's pictures: what perfect language model and mapper would give."""
    found: dict[str, Measure] = {}
    diffusion = bench.mllm.diffusion
    for group in GROUPS:
        if group.held_out:
            continue
        matches = []
        for seed in bench.seeds:
            asked = [facts for facts, _ in requests(group, seed, bench.count)]
            states = text_states(bench.mllm, [canonical_facts(facts) for facts in asked])
            noise = diffusion.noise(noise_seeds(seed, len(asked)), like=states)
            pictures = []
            for start in track(range(0, len(asked), bench.batch), description="text tower", transient=True):
                part = slice(start, start + bench.batch)
                with torch.inference_mode():
                    latents = diffusion.sample(states[part], noise[part], diffusion.settings())
                    pictures += [to_picture(pixels) for pixels in diffusion.decode(latents)]
            matches.append([match(a, f) for a, f in zip(asked, bench.see(pictures), strict=True)])
        found |= shares(group.key, matches, _ASPECTS[group.things])
    return found


def map_to_text_tower(bench: Bench) -> dict[str, Measure]:
    """How much of the text tower's states the mapper explains: 1 - squared error / variance."""
    found: dict[str, Measure] = {}
    for group in GROUPS:
        per_seed = []
        for seed in bench.seeds:
            asked, prompts = zip(*requests(group, seed, bench.count), strict=True)
            answers = bench.ask(prompts, draw=False, what="mapper")
            drawing = [i for i, answer in enumerate(answers) if answer.hidden is not None]
            if len({canonical_facts(asked[i]) for i in drawing}) < 2:
                continue  # one caption alone has no variance to explain
            hidden = torch.stack([h for h in (answers[i].hidden for i in drawing) if h is not None])
            wanted = text_states(bench.mllm, [canonical_facts(asked[i]) for i in drawing])
            with torch.inference_mode():
                error = (bench.mllm.drawers["image"].conditioning(hidden.to(wanted)) - wanted).square()
            variance = (wanted - wanted.mean(0)).square().mean()
            per_seed.append((1 - error.mean(dim=(1, 2)) / variance).tolist())
        if per_seed:
            found[group.key] = Measure.mean(per_seed)
    return found


def segment_drawn(bench: Bench) -> dict[str, Measure]:
    """Whether the segmenter finds in a drawn picture what was asked for: at least 2 % of its pixels."""
    group, model = GROUPS[1], bench.segmenter
    per_seed = []
    for seed in bench.seeds:
        asked, prompts = zip(*requests(group, seed, max(1, bench.count // 2)), strict=True)
        answers = bench.ask(prompts, seed=seed, draw="auto", what="masks of drawn pictures")
        found = []
        for facts, answer in zip(asked, answers, strict=True):
            noun = NOUNS.index(facts.things[0][0])
            pixels = np.zeros(1) if answer.image is None else classify(model, np.array(answer.image)[None])
            found.append(answer.image is not None and float((pixels == noun).mean()) >= 0.02)
        per_seed.append(found)
    return {"found": Measure.share(per_seed)}


def _specs(group: Group, *, targets: bool) -> tuple[Spec, ...]:
    specs = []
    for aspect in _ASPECTS[group.things]:
        name = "both nouns" if group.things == 2 and aspect == "nouns" else ASPECTS[aspect]
        target = _TARGETS.get((group.key, aspect)) if targets else None
        specs.append(Spec(f"{group.key}.{aspect}", f"{group.title}: {name}", target))
    said = Spec(f"{group.key}.said.everything", f"{group.title}: all of it in the text answer")
    return (*specs, said) if targets else tuple(specs)


SECTIONS = (
    Section(
        "drawing",
        "Drawing through the whole chain",
        tuple(spec for group in GROUPS for spec in _specs(group, targets=True)),
        draw,
    ),
    Section(
        "conditioning",
        "Upper bound: the text tower's conditioning of the caption, straight into the U-Net",
        tuple(spec for group in GROUPS if not group.held_out for spec in _specs(group, targets=False)),
        draw_from_text_tower,
    ),
    Section(
        "mapper",
        "The mapper against the text tower",
        tuple(Spec(group.key, f"{group.title}: R2", unit="") for group in GROUPS),
        map_to_text_tower,
    ),
    Section(
        "masks",
        "The segmenter on drawn pictures",
        (Spec("found", f"{GROUPS[1].title}: the thing asked for has a mask"),),
        segment_drawn,
    ),
)
