"""The world of scenes: what the embedded model was trained on, and the ground truth of its evaluations."""

from nam.world.dialogues import dialogue
from nam.world.language import canonical, captions, parse
from nam.world.render import Rendered, render
from nam.world.scene import COLOURS, NOUNS, PLACES, Scene, Thing, sample_scene

__all__ = [
    "COLOURS",
    "NOUNS",
    "PLACES",
    "Rendered",
    "Scene",
    "Thing",
    "canonical",
    "captions",
    "dialogue",
    "parse",
    "render",
    "sample_scene",
]
