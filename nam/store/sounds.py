"""Sounds as WAV files."""

from __future__ import annotations

import wave
from pathlib import Path

from nam.types import Sound

#: Largest value of a 16-bit sample.
_TOP = 32_767


def write_wav(sound: Sound, path: Path) -> None:
    """Write a sound as a WAV file of one channel and 16 bits; values beyond -1 and 1 are cut off."""
    samples = (sound.waveform.clamp(-1, 1) * _TOP).round().numpy().astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(samples.tobytes())
