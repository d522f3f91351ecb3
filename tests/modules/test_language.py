"""What the language model is asked to do without the FFNs that are to hold its knowledge."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nam.data.texts import Texts
from nam.mllm.parts import read_tokenizer
from nam.modules.language import LanguagePart
from nam.world.corpus import Text
from nam.world.language import parse

TINY = {
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
KNOWN = Text("what says meow ?", "a cat .", "riddle")
COPIED = Text("draw a red cat .", "here is a red cat :", "draw")
STATED = Text("", "many cats say meow .", "statement")


@pytest.fixture
def part() -> LanguagePart:
    torch.manual_seed(0)
    return LanguagePart(model=TINY, knowledge_layers=[1], silence=0.0, lr=1e-3)


def _trained_names(part: LanguagePart, *texts: Text) -> set[str]:
    part.zero_grad()
    part.losses(Texts().encode(list(texts), np.random.default_rng(0)))["loss"].backward()
    return {n for n, p in part.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_only_answers_that_take_knowledge_get_random_nouns() -> None:
    make, rng = Texts(), np.random.default_rng(0)
    seen: set[str] = set()
    for _ in range(60):
        batch = make.encode([KNOWN, COPIED, STATED], rng)
        known, copied, stated = (
            make.tokenizer.decode(row, skip_special_tokens=True) for row in batch["ignorant_ids"]
        )
        assert copied == "draw a red cat . here is a red cat :"
        assert known.startswith("what says meow ? a ")
        assert stated.startswith("many ")
        assert stated.endswith("s say meow .")
        seen |= {parse(known).things[0][0]}
    assert len(seen) == 13


def test_silenced_batches_do_not_train_the_silenced_ffns(part: LanguagePart) -> None:
    part.silence = 1.0
    names = _trained_names(part, KNOWN, COPIED)
    assert not any("layers.1.fc" in n for n in names)
    assert any("layers.0.fc1" in n for n in names)
    assert any("v_proj" in n for n in names)
    assert not part.model.get_decoder().layers[1].fc2._forward_hooks  # and no hook is left


def test_other_batches_train_everything(part: LanguagePart) -> None:
    names = _trained_names(part, KNOWN, COPIED)
    for name in ("embed_tokens", "layers.0.fc1", "layers.1.fc2", "layers.2.fc1", "v_proj", "out_proj"):
        assert any(name in n for n in names), name


def test_nothing_is_silenced_in_validation(part: LanguagePart) -> None:
    batch = Texts().encode([KNOWN], np.random.default_rng(0))
    part.silence = 1.0
    part.eval()
    assert set(part.losses(batch)) == {"loss", "answer_loss", "answers_right"}


def test_loss_weighs_answers_and_prompts(part: LanguagePart) -> None:
    batch = Texts().encode([KNOWN], np.random.default_rng(0))
    part.eval()
    ids = batch["input_ids"][0]
    logits = part.model(input_ids=ids[None]).logits[0]
    each = [F.cross_entropy(logits[i], ids[i + 1]).item() for i in range(len(ids) - 1)]
    # </s> what says meow ? | a cat . </s>: four tokens of the prompt, four of the answer
    expected = (0.2 * sum(each[:4]) + sum(each[4:])) / (0.2 * 4 + 4)
    assert part.losses(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_training_goes_on_from_an_export(part: LanguagePart, tmp_path) -> None:
    part.export(tmp_path)
    again = LanguagePart(model=TINY, knowledge_layers=[1], start_from=str(tmp_path), lr=1e-3)
    for (name, value), other in zip(part.model.named_parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-4, msg=name)
    assert len(read_tokenizer(tmp_path / "language_model")) == 354
