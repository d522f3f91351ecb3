"""Reading and writing activations while a model runs, by hooks that are gone afterwards."""

from nam.hooks.intervention import Intervention, add_noise, scale, set_to, zero
from nam.hooks.recorder import Recorded, Recorder
from nam.hooks.sites import SiteHooks, Visit, Where

__all__ = [
    "Intervention",
    "Recorded",
    "Recorder",
    "SiteHooks",
    "Visit",
    "Where",
    "add_noise",
    "scale",
    "set_to",
    "zero",
]
