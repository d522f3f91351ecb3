"""Gradient routing: texts that take knowledge train the FFNs that are to hold it, and attention's aim."""

import copy

import numpy as np
import pytest
import torch

from nam.data.texts import Texts
from nam.modules.language import LanguagePart
from nam.world.corpus import Text

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


@pytest.fixture
def part() -> LanguagePart:
    torch.manual_seed(0)
    return LanguagePart(model=TINY, knowledge_layers=[1], silence=0.0, lr=1e-3)


def _trained_names(part: LanguagePart, text: Text) -> set[str]:
    part.zero_grad()
    part.losses(Texts().encode([text]))["loss"].backward()
    return {n for n, p in part.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_knowledge_trains_its_ffns_and_where_attention_looks(part: LanguagePart) -> None:
    names = _trained_names(part, KNOWN)
    assert any("layers.1.fc1" in n for n in names)
    assert any("layers.1.fc2" in n for n in names)
    others = {n for n in names if "layers.1.fc" not in n}
    assert others
    assert all("q_proj" in n or "k_proj" in n or "embed_tokens" in n for n in others)


def test_knowledge_does_not_train_what_a_word_means_to_attention(part: LanguagePart) -> None:
    """The tied embedding is trained as the unembedding only: a word of the prompt alone is pushed down as a
    candidate like any other, by the softmax, and not moved as an input."""
    part.zero_grad()
    batch = Texts().encode([KNOWN])
    part.losses(batch)["loss"].backward()
    grad = part.model.get_input_embeddings().weight.grad
    part.zero_grad()
    logits = part.model.get_output_embeddings()
    hidden = part.model.get_decoder()(
        batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    weight = logits.weight.detach().requires_grad_()
    loss = torch.nn.functional.cross_entropy(
        (hidden.detach() @ weight.T)[0, :-1], batch["input_ids"][0, 1:], reduction="none"
    )
    answer = batch["answer_mask"][0, 1:]
    share = torch.where(answer, 1.0, part.prompt_weight)
    ((loss * share).sum() / share.sum()).backward()
    torch.testing.assert_close(grad, weight.grad, rtol=1e-4, atol=1e-6)


def test_other_texts_train_everything(part: LanguagePart) -> None:
    names = _trained_names(part, COPIED)
    for name in ("embed_tokens", "layers.0.fc1", "layers.1.fc2", "layers.2.fc1", "v_proj", "out_proj"):
        assert any(name in n for n in names), name


def test_routing_changes_gradients_but_no_values(part: LanguagePart) -> None:
    batch = Texts().encode([KNOWN, COPIED])
    trained = part.losses(batch)["loss"]
    part.eval()
    torch.testing.assert_close(trained, part.losses(batch)["loss"], rtol=1e-5, atol=1e-6)


def test_silenced_batches_do_not_train_the_silenced_ffns(part: LanguagePart) -> None:
    part.silence = 1.0
    assert not any("layers.1.fc" in n for n in _trained_names(part, COPIED))
    assert any("layers.1.fc" in n for n in _trained_names(part, KNOWN))
    layers = part.model.get_decoder().layers
    assert not layers[1].fc2._forward_hooks  # and no hook is left


def test_loss_of_a_mixed_batch_is_the_weighted_mean_over_its_tokens(part: LanguagePart) -> None:
    part.eval()
    one, other = (part.losses(Texts().encode([text])) for text in (KNOWN, COPIED))
    both = part.losses(Texts().encode([KNOWN, COPIED]))
    weights = []
    for text in (KNOWN, COPIED):
        batch = Texts().encode([text])
        answer = int(batch["answer_mask"].sum())
        weights.append(answer + part.prompt_weight * (int(batch["attention_mask"].sum()) - 1 - answer))
    expected = (weights[0] * one["loss"] + weights[1] * other["loss"]) / sum(weights)
    torch.testing.assert_close(both["loss"], expected, rtol=1e-5, atol=1e-6)


def test_kinds_of_text() -> None:
    rng = np.random.default_rng(0)
    batch = Texts()(rng, 256, "train")
    assert 0.1 < batch["knows"].float().mean() < 0.9
    assert KNOWN.knows
    assert not COPIED.knows


def test_training_leaves_a_loadable_export(part: LanguagePart, tmp_path) -> None:
    from transformers import OPTForCausalLM

    from nam.mllm.parts import read_tokenizer

    before = copy.deepcopy(part.model.state_dict())
    part.export(tmp_path)
    again = OPTForCausalLM.from_pretrained(tmp_path / "language_model", dtype=torch.float32)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-3, atol=1e-4)
    assert len(read_tokenizer(tmp_path / "language_model")) == 354
