"""Denoising: noise and conditioning to latents, differentiable from end to end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from nam.errors import ConfigError, ModelError, nearest
from nam.mllm.config import read_json
from nam.mllm.parts import quiet_hub

#: Samplers by the name that a config gives them.
SAMPLERS = {"ddim": "DDIMScheduler", "dpm++": "DPMSolverMultistepScheduler"}


def scheduler_settings(folder: Path, *, name: str | None = None) -> dict[str, Any]:
    """What a scheduler folder says, with `_class_name` replaced by the named sampler's.

    Raises:
        ModelError: the folder holds no scheduler.
        ConfigError: no sampler has that name.
    """
    saved = read_json(folder / "scheduler_config.json")
    if name is not None:
        if name not in SAMPLERS:
            raise ConfigError(f"mllm.sampler={name!r} is unknown ({nearest(name, SAMPLERS)})")
        saved["_class_name"] = SAMPLERS[name]
    for key, kind in (("_class_name", str), ("num_train_timesteps", int)):
        if not isinstance(saved.get(key), kind):
            raise ModelError(f"{folder}/scheduler_config.json has no {key}")
    return saved


def read_scheduler(folder: Path, *, name: str | None = None) -> Any:
    """The scheduler of a folder, as its own class or as the named sampler with the same noise schedule.

    Raises:
        ModelError: the folder holds no scheduler.
        ConfigError: no sampler has that name.
    """
    import diffusers

    saved = scheduler_settings(folder, name=name)
    class_name = saved["_class_name"]
    scheduler_class = getattr(diffusers, class_name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
        raise ModelError(f"{folder}/scheduler_config.json: {class_name!r} is no scheduler of diffusers")
    # DDIM clips to [-1, 1] unless told otherwise, which is right for pixels and wrong for latents.
    clip = {"clip_sample": saved.get("clip_sample", False)} if class_name == SAMPLERS["ddim"] else {}
    with quiet_hub():
        return scheduler_class.from_config(saved, **clip)


def noise_of(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, float32 (B, *shape) on the CPU; each row follows from its seed alone."""
    rows = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def denoise(
    unet: Callable[..., Any],
    scheduler: Any,
    *,
    noise: Tensor,
    cond: Tensor,
    uncond: Tensor,
    steps: int,
    guidance: float,
    grad_steps: int | None = None,
    checkpoint: bool = False,
) -> Tensor:
    """Latents (B, C, h, w) after `steps` denoising steps with classifier-free guidance.

    With gradients enabled, the result can be differentiated by `cond` and by `noise`.

    Args:
        unet: A diffusers U-Net.
        scheduler: A diffusers scheduler; a copy of it is used, so that calls do not share its state.
        noise: (B, C, h, w), on the U-Net's device and in its dtype.
        cond: Text conditioning, (B, Q, E).
        uncond: That of the empty caption, (1, Q, E).
        steps: Denoising steps.
        guidance: g in uncond + g * (cond - uncond). At 1 the unconditional half is left out.
        grad_steps: Only the last this many steps keep a graph; None for all.
        checkpoint: Recompute each U-Net call in the backward pass instead of keeping its activations.
    """
    scheduler = _copy_with_steps(scheduler, steps, noise.device)
    guided = guidance != 1
    context = torch.cat([uncond.expand_as(cond), cond]) if guided else cond
    latents = noise * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps
    first_with_grad = 0 if grad_steps is None else len(timesteps) - grad_steps

    def predict(sample: Tensor, time: Tensor, context: Tensor) -> Tensor:
        twice = torch.cat([sample, sample]) if guided else sample
        output: Tensor = unet(twice, time, encoder_hidden_states=context).sample
        if not guided:
            return output
        without, with_ = output.chunk(2)
        return without + guidance * (with_ - without)

    for index, time in enumerate(timesteps):
        keep = torch.is_grad_enabled() and index >= first_with_grad
        with torch.set_grad_enabled(keep):
            sample = scheduler.scale_model_input(latents, time)
            if keep and checkpoint:
                output = recompute(predict, sample, time, context, use_reentrant=False)
            else:
                output = predict(sample, time, context)
            latents = scheduler.step(output, time, latents, return_dict=False)[0]
    return latents


def _copy_with_steps(scheduler: Any, steps: int, device: torch.device) -> Any:
    with warnings.catch_warnings():
        # diffusers hands a tensor to numpy in a way that numpy 2 deprecates.
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        copy = type(scheduler).from_config(scheduler.config)
        copy.set_timesteps(steps, device=device)
    return copy
