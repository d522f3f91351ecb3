"""Several processes, each with the whole model, as the configuration builds them."""

from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy

from nam.errors import ConfigError


def ddp(*, wait: float) -> DDPStrategy:
    """Lightning's DDP, whose processes wait for each other as long as their shares may differ.

    wait: hours. Processes meet at the end of a run alone; torch gives up after half an hour, which is what a
    share of the data that takes 1 % longer makes of a run of two days.
    """
    if wait <= 0:
        raise ConfigError(f"trainer.strategy.wait must be more than 0 hours, got {wait}")
    return DDPStrategy(timeout=timedelta(hours=wait))
