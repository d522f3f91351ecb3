"""The labels of COCO's panoptic segmentation, and the everyday words that stand for them.

A word may stand for several labels ("wall" for a wall of brick, of tile, ...): its mask is their union.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from nam.errors import InputError
from nam.types import Concept


def _listed(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


#: COCO's 80 things, in the order of the panoptic challenge.
THINGS = _listed(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
    backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
    baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
    knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake,
    chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
    cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
    hair drier, toothbrush
    """
)

#: COCO's 53 kinds of stuff, in the order of the panoptic challenge.
STUFF = _listed(
    """
    banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel,
    house, light, mirror-stuff, net, pillow, platform, playingfield, railroad, river, road, roof, sand,
    sea, shelf, snow, stairs, tent, towel, wall-brick, wall-stone, wall-tile, wall-wood, water-other,
    window-blind, window-other, tree-merged, fence-merged, ceiling-merged, sky-other-merged,
    cabinet-merged, table-merged, floor-other-merged, pavement-merged, mountain-merged, grass-merged,
    dirt-merged, paper-merged, food-other-merged, building-other-merged, rock-merged, wall-other-merged,
    rug-merged
    """
)

#: Words that stand for labels beside the labels' own names; a label that a model lacks is passed over.
SYNONYMS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("man", "woman", "boy", "girl", "child", "kid", "baby", "people", "men"), ("person",)),
    **dict.fromkeys(("women", "children", "human", "lady", "guy", "player", "skier", "surfer"), ("person",)),
    **dict.fromkeys(("bike", "cycle"), ("bicycle",)),
    **dict.fromkeys(("motorbike", "scooter", "moped"), ("motorcycle",)),
    **dict.fromkeys(("plane", "aeroplane", "aircraft", "jet", "airliner"), ("airplane",)),
    **dict.fromkeys(("automobile", "taxi", "cab", "sedan"), ("car",)),
    **dict.fromkeys(("ship", "sailboat", "canoe", "kayak", "yacht", "dinghy", "ferry"), ("boat",)),
    **dict.fromkeys(("lorry", "pickup", "van"), ("truck",)),
    **dict.fromkeys(("locomotive", "tram", "subway"), ("train",)),
    **dict.fromkeys(("puppy", "pup", "canine", "hound"), ("dog",)),
    **dict.fromkeys(("kitten", "kitty", "feline"), ("cat",)),
    **dict.fromkeys(("pony", "foal", "mare", "stallion"), ("horse",)),
    **dict.fromkeys(("lamb", "ram", "ewe"), ("sheep",)),
    **dict.fromkeys(("cattle", "bull", "calf", "ox"), ("cow",)),
    **dict.fromkeys(("duck", "goose", "parrot", "seagull", "pigeon", "chicken", "owl"), ("bird",)),
    **dict.fromkeys(("rucksack", "knapsack"), ("backpack",)),
    **dict.fromkeys(("purse", "bag"), ("handbag",)),
    **dict.fromkeys(("luggage", "briefcase"), ("suitcase",)),
    "ball": ("sports ball",),
    "racket": ("tennis racket",),
    "glass": ("wine glass", "cup"),
    "mug": ("cup",),
    "hotdog": ("hot dog",),
    "doughnut": ("donut",),
    **dict.fromkeys(("sofa", "settee"), ("couch",)),
    "plant": ("potted plant",),
    "desk": ("table-merged", "dining table"),
    "table": ("table-merged", "dining table"),
    **dict.fromkeys(("television", "monitor", "screen"), ("tv",)),
    **dict.fromkeys(("computer", "notebook"), ("laptop",)),
    **dict.fromkeys(("phone", "cellphone", "telephone", "smartphone", "mobile phone"), ("cell phone",)),
    "fridge": ("refrigerator",),
    "watch": ("clock",),
    "teddy": ("teddy bear",),
    "hydrant": ("fire hydrant",),
    "ocean": ("sea",),
    "water": ("water-other", "sea", "river"),
    "lake": ("water-other",),
    "stream": ("river",),
    "beach": ("sand",),
    **dict.fromkeys(("street", "highway"), ("road",)),
    **dict.fromkeys(("sidewalk", "footpath"), ("pavement-merged",)),
    **dict.fromkeys(("lawn", "meadow"), ("grass-merged",)),
    **dict.fromkeys(("hill", "hills", "cliff"), ("mountain-merged",)),
    **dict.fromkeys(("stone", "boulder"), ("rock-merged",)),
    **dict.fromkeys(("ground", "mud", "soil"), ("dirt-merged",)),
    **dict.fromkeys(("building", "tower", "skyscraper"), ("building-other-merged", "house")),
    **dict.fromkeys(("forest", "bush"), ("tree-merged",)),
    "carpet": ("rug-merged",),
    "cupboard": ("cabinet-merged",),
    **dict.fromkeys(("field", "pitch"), ("playingfield",)),
    **dict.fromkeys(("track", "tracks", "rail", "railway"), ("railroad",)),
    **dict.fromkeys(("cloud", "heaven"), ("sky-other-merged",)),
}


def labels_of(
    concept: Concept, known: Sequence[str], given: Mapping[str, Sequence[str]] | None = None
) -> tuple[int, ...]:
    """The places of the labels that a concept stands for: by its name, else by the first of its forms known.

    A word stands for the label of its name; failing that, for what `SYNONYMS` says; failing that, for every
    label of which it is the first part ("sky" for "sky-other-merged"). Plurals are understood.

    Args:
        concept: What to find.
        known: The model's labels.
        given: Words with the labels that they stand for, which go before everything else.

    Raises:
        InputError: none; the message names the nearest labels. Or `given` names a label that there is not.
    """
    own = {word.lower(): names for word, names in (given or {}).items()}
    places: dict[str, list[int]] = {}
    parts: dict[str, list[int]] = {}
    for place, name in enumerate(known):
        for spelling in {name, name.lower(), name.lower().replace("-", " ")}:
            places.setdefault(spelling, []).append(place)
        parts.setdefault(name.lower().split("-")[0], []).append(place)
    for word in (form for one in concept.words for form in _singulars(one)):
        if word in own:
            return tuple(place for name in own[word] for place in _place(name, places))
        meant = [place for name in SYNONYMS.get(word, ()) for place in places.get(name, ())]
        found = places.get(word) or meant or parts.get(word)
        if found:
            return tuple(found)
    words = [*places, *parts, *(word for word, names in SYNONYMS.items() if set(names) & set(places))]
    close = difflib.get_close_matches(concept.name.lower(), words, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(close)}" if close else f"such as {', '.join(known[:8])}"
    raise InputError(
        f"the segmenter has no label for {concept.name!r} ({hint}; {len(known)} labels in all): say which it "
        f"is with segmenter.labels={{{concept.name}: [LABEL]}}, or take one that reads words (segmenter=sam3)"
    )


def _singulars(word: str) -> Iterator[str]:
    """The word in lower case, then what it may be the plural of."""
    plain = " ".join(word.lower().split())
    yield plain
    for end, instead in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")):
        if plain.endswith(end) and len(plain) > len(end) + 1:
            yield plain.removesuffix(end) + instead


def _place(name: str, places: Mapping[str, Sequence[int]]) -> Sequence[int]:
    if name not in places:
        close = difflib.get_close_matches(name, places, n=3, cutoff=0.5)
        raise InputError(
            f"segmenter.labels names {name!r}, which is no label of the model (nearest: {', '.join(close)})"
        )
    return places[name]
