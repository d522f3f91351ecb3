"""Models whose forward pass cannot go on from a layer are told which setting does without."""

from __future__ import annotations

import pytest

from nam.app.config import compose
from nam.errors import ModelError
from nam.mllm.gill import GILL
from nam.mllm.resume import AT_ONCE, trace


def test_another_attention_is_refused_with_the_settings_that_help(gill: GILL) -> None:
    answer = gill.generate(prompt="a cat", draw=False, max_new_tokens=3)
    gill.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="its attention is flash_attention_2, not eager or sdpa") as refusal:
        trace(gill, answer, start=1, stop=len(answer.token_ids))
    assert AT_ONCE in str(refusal.value)


def test_the_settings_that_help_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    advice = [word.strip(",()") for word in AT_ONCE.split() if "=" in word]
    assert len(advice) == 2
    cfg = compose("attribute", ["reduction=[ablation,nam_total]", *advice])
    assert (cfg.reduction.ablation.resume, cfg.reduction.nam_total.rerun) == (False, 0)
