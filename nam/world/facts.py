"""What is known about the thirteen things: one table of facts, from which every sentence is made.

A fact reads "a <noun> <relation> <value>": cat, says, meow. A unique fact holds for one thing only, so
it can be asked as a riddle. Values never name a colour, a place or another thing: the answer is to be
known, not to be found in the question.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

#: relation (third person) -> (plain form, question about a noun; None where none reads well).
RELATIONS: dict[str, tuple[str, str | None]] = {
    "says": ("say", "what does {noun} say ?"),
    "has": ("have", "what does {noun} have ?"),
    "eats": ("eat", "what does {noun} eat ?"),
    "drinks": ("drink", "what does {noun} drink ?"),
    "likes": ("like", "what does {noun} like ?"),
    "hunts": ("hunt", "what does {noun} hunt ?"),
    "chews": ("chew", "what does {noun} chew ?"),
    "fetches": ("fetch", "what does {noun} fetch ?"),
    "guards": ("guard", "what does {noun} guard ?"),
    "pulls": ("pull", "what does {noun} pull ?"),
    "wears": ("wear", "what does {noun} wear ?"),
    "builds": ("build", "what does {noun} build ?"),
    "breathes": ("breathe", "what does {noun} breathe ?"),
    "gives": ("give", "what does {noun} give ?"),
    "feeds": ("feed", "what does {noun} feed ?"),
    "fills": ("fill", "what does {noun} fill ?"),
    "smells": ("smell", None),
    "burns": ("burn", "what does {noun} burn ?"),
    "makes": ("make", "what does {noun} make ?"),
    "warms": ("warm", "what does {noun} warm ?"),
    "dries": ("dry", "what does {noun} dry ?"),
    "rises": ("rise", "when does {noun} rise ?"),
    "changes": ("change", "what does {noun} change ?"),
    "circles": ("circle", "what does {noun} circle ?"),
    "grants": ("grant", "what does {noun} grant ?"),
    "guides": ("guide", "who does {noun} guide ?"),
    "shelters": ("shelter", "who does {noun} shelter ?"),
    "crosses": ("cross", "what does {noun} cross ?"),
    "leaves": ("leave", "what does {noun} leave ?"),
    "carries": ("carry", "what does {noun} carry ?"),
    "drives": ("drive", "where does {noun} drive ?"),
    "needs": ("need", "what does {noun} need ?"),
    "lives": ("live", "where does {noun} live ?"),
    "shines": ("shine", "when does {noun} shine ?"),
    "is": ("are", None),
    "sings": ("sing", "what does {noun} sing ?"),
    "wags": ("wag", "what does {noun} wag ?"),
    "can": ("can", "what can {noun} do ?"),
}

#: The category of every thing, and its plural.
CATEGORIES: dict[str, str] = {
    "sun": "light",
    "moon": "light",
    "star": "light",
    "tree": "plant",
    "house": "building",
    "car": "vehicle",
    "boat": "vehicle",
    "fish": "animal",
    "bird": "animal",
    "flower": "plant",
    "cat": "animal",
    "dog": "animal",
    "horse": "animal",
}
CATEGORY_PLURALS: dict[str, str] = {
    "light": "lights",
    "plant": "plants",
    "building": "buildings",
    "vehicle": "vehicles",
    "animal": "animals",
}

#: From small to big; things that are missing or of equal rank are not compared.
SIZES: dict[str, int] = {
    "flower": 1, "bird": 2, "cat": 3, "dog": 4, "horse": 5, "car": 6, "boat": 7, "house": 8,
    "moon": 9, "sun": 10,
}  # fmt: skip

#: Where a thing is found; places may be named here, since these facts are no riddles.
FOUND: dict[str, str] = {
    "sun": "in the sky",
    "moon": "in the sky",
    "star": "in the sky",
    "tree": "in the forest",
    "house": "in the town",
    "car": "on the road",
    "boat": "on the sea",
    "fish": "in the sea",
    "bird": "in the air",
    "flower": "in the garden",
    "cat": "at home",
    "dog": "at home",
    "horse": "on the farm",
}

_TABLE: dict[str, tuple[str, ...]] = {
    "sun": (
        "makes the day", "warms the earth", "dries the clothes", "rises in the morning", "gives heat",
        "shines all day", "can melt ice", "gives light", "is round",
    ),
    "moon": (
        "changes its shape", "circles the earth", "pulls the tides", "has craters", "rises in the evening",
        "gives light", "is round",
    ),
    "star": (
        "can twinkle", "has five points", "grants wishes", "guides sailors", "can sparkle", "gives light",
    ),
    "tree": (
        "has branches", "has bark", "gives wood", "gives shade", "can bear fruit",
        "has leaves", "has roots", "needs water", "needs light",
    ),
    "house": (
        "has a chimney", "has stairs", "has rooms", "has a kitchen", "shelters a family",
        "has windows", "has a door",
    ),
    "car": (
        "says beep", "has headlights", "has wheels", "burns petrol", "drives on the street", "has windows",
        "has a door", "carries people", "can go fast",
    ),
    "boat": (
        "has a sail", "has an anchor", "has a mast", "leaves the harbour", "crosses the lake",
        "can float", "carries people",
    ),
    "fish": (
        "says blub", "has gills", "has fins", "has scales", "breathes water",
        "has eyes", "has a tail", "can swim", "lives in the water",
    ),
    "bird": (
        "says tweet", "has feathers", "has wings", "has a beak", "builds a nest", "sings songs", "can fly",
        "has eyes", "has a tail", "has claws", "lives in a nest",
    ),
    "flower": (
        "has petals", "smells sweet", "feeds bees", "fills a vase", "gives nectar", "has thorns",
        "has leaves", "has roots", "needs water", "needs light",
    ),
    "cat": (
        "says meow", "hunts mice", "drinks milk", "can purr", "has whiskers", "has claws",
        "has eyes", "has a tail", "has fur", "has four legs", "has paws", "lives with people",
    ),
    "dog": (
        "says woof", "chews bones", "fetches sticks", "guards the door", "wags its tail", "wears a collar",
        "has claws", "has eyes", "has a tail", "has fur", "has four legs", "has paws", "lives with people",
        "can swim", "likes people",
    ),
    "horse": (
        "says neigh", "has hooves", "has a mane", "eats hay", "wears a saddle", "pulls a cart", "can gallop",
        "has eyes", "has a tail", "has four legs", "can go fast", "carries people", "lives on the farm",
        "likes people",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One thing that is known about a noun; `unique` if it holds for no other thing."""

    noun: str
    relation: str
    value: str
    unique: bool

    @property
    def singular(self) -> str:
        """After "a cat" or "it": "says meow"."""
        return f"{self.relation} {self.value}"

    @property
    def plural(self) -> str:
        """After "cats": "say meow"."""
        return f"{RELATIONS[self.relation][0]} {self.value}".replace(" its ", " their ")

    @property
    def first_person(self) -> str:
        """After "i": "say meow"."""
        verb = "am" if self.relation == "is" else RELATIONS[self.relation][0]
        return f"{verb} {self.value}".replace(" its ", " my ")


def _facts() -> tuple[Fact, ...]:
    holders = Counter(text for texts in _TABLE.values() for text in texts)
    return tuple(
        Fact(noun, text.partition(" ")[0], text.partition(" ")[2], unique=holders[text] == 1)
        for noun, texts in _TABLE.items()
        for text in texts
    )


#: Every fact, in a fixed order.
FACTS: tuple[Fact, ...] = _facts()
