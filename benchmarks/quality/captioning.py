"""Captions of unseen pictures, and pictures drawn after a picture."""

from __future__ import annotations

from benchmarks.quality.bench import ASPECTS, Bench, Match, match, renders_of, rng_for, scenes_of, shares
from benchmarks.quality.rows import Measure, Section, Spec
from nam.world.dialogues import HELD_CAPTION
from nam.world.language import facts_of, parse

POSES = ("shipped", "free")
PROMPT = "a picture of"
SAME = "draw the same as this picture ."
_ONE = ("nouns", "colours", "place", "everything")
_TWO = ("nouns", "things", "place", "everything")
_TARGETS = {"nouns": 98.0, "colours": 97.0, "place": 99.0}


def caption(bench: Bench) -> dict[str, Measure]:
    """What the model says of test-split pictures, read back from its words."""
    found: dict[str, Measure] = {}
    for pose in POSES:
        for things, aspects in ((1, _ONE), (2, _TWO)):
            found |= shares(f"{pose}.{things}", _captions(bench, pose, things, (PROMPT,)), aspects)
    held = _captions(bench, "shipped", 1, HELD_CAPTION)
    return found | shares("held", held, ("everything",))


def _captions(bench: Bench, pose: str, things: int, prompts: tuple[str, ...]) -> list[list[Match]]:
    matches = []
    for seed in bench.seeds:
        rng = rng_for(f"caption {pose} {things}", seed)
        scenes = scenes_of(rng, 2 * bench.count, things=things, pose=pose)
        asked = [prompts[i % len(prompts)] for i in range(len(scenes))]
        answers = bench.ask(asked, images=list(renders_of(scenes, rng)), what=f"captions, {pose} pose")
        matches.append([match(facts_of(s), parse(g.text)) for s, g in zip(scenes, answers, strict=True)])
    return matches


def draw_the_same(bench: Bench) -> dict[str, Measure]:
    """A picture in, its caption and a picture like it out."""
    said, drawn = [], []
    for seed in bench.seeds:
        rng = rng_for("same", seed)
        scenes = scenes_of(rng, bench.count, things=1)
        images = list(renders_of(scenes, rng))
        answers = bench.ask([SAME] * len(scenes), images=images, seed=seed, draw="auto", what="the same")
        asked = [facts_of(scene) for scene in scenes]
        said.append([match(a, parse(g.text)) for a, g in zip(asked, answers, strict=True)])
        seen = bench.see([g.image for g in answers])
        drawn.append([match(a, f) for a, f in zip(asked, seen, strict=True)])
    return shares("said", said, ("everything",)) | shares("drawn", drawn, _ONE)


def _specs() -> tuple[Spec, ...]:
    specs = []
    for pose in POSES:
        for aspect in _ONE:
            name = f"{pose} pose, one thing: {ASPECTS[aspect]}"
            specs.append(Spec(f"{pose}.1.{aspect}", name, _TARGETS.get(aspect)))
        for aspect in _TWO:
            name = "both nouns" if aspect == "nouns" else ASPECTS[aspect]
            target = 90.0 if aspect == "nouns" else None
            specs.append(Spec(f"{pose}.2.{aspect}", f"{pose} pose, two things: {name}", target))
    held = Spec("held.everything", "shipped pose, one thing, held-out phrasings: all of it")
    return (*specs, held)


SECTIONS = (
    Section("captioning", "Captions of unseen pictures", _specs(), caption),
    Section(
        "same",
        "Draw the same as this picture (unseen, one thing)",
        (
            Spec("said.everything", "said: all of it"),
            Spec("drawn.nouns", "drawn: noun", 93),
            *(Spec(f"drawn.{a}", f"drawn: {ASPECTS[a]}") for a in _ONE[1:]),
        ),
        draw_the_same,
    ),
)
