"""Tiny RANDOM segmentation models of the classes of real ones, in the files of the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nam.mllm.parts import quiet_hub
from nam.world.tokenizer import TEXT_END, TEXT_START, build_tokenizer

LABELS = (
    "cat",
    "dog",
    "airplane",
    "wine glass",
    "sky-other-merged",
    "wall-brick",
    "wall-wood",
    "water-other",
)

SWIN = {
    "image_size": 64,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def write(kind: str, folder: Path, *, labels: Sequence[str] = LABELS, seed: int = 0) -> Path:
    """Write a model of a kind, "sam3" or another name below, with its processor; return the folder."""
    with torch.random.fork_rng(devices=[]), quiet_hub():
        torch.manual_seed(seed)
        {"sam3": _sam3, "clipseg": _clipseg}.get(kind, _labelled)(folder, kind, dict(enumerate(labels)))
    if kind in ("sam3", "clipseg", "oneformer"):
        build_tokenizer().save_pretrained(folder)
    return folder


def text_tower(**sizes: int) -> dict[str, Any]:
    """A text tower that reads the tokenizer of the scenes."""
    tokenizer = build_tokenizer()
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in (TEXT_START, TEXT_END))
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
    return {**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 16, **sizes}


def _sam3(folder: Path, kind: str, labels: dict[int, str]) -> None:
    from transformers import Sam3Config, Sam3Model

    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "pretrain_image_size": 28,
        "window_size": 2,
        "global_attn_indexes": [1],
    }
    layers = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={"model_type": "clip_text_model", "projection_dim": 16, **text_tower()},
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 6},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2, "num_upsampling_stages": 2},
    )
    model = Sam3Model(config).eval()
    with torch.no_grad():  # masks that differ from pixel to pixel, and scores from instance to instance
        for name, value in model.named_parameters():
            if value.ndim > 1 and "position" not in name:
                value.mul_(90.0 if "instance" in name else 6.0)
    model.save_pretrained(folder)
    settings = {
        "image_processor_type": "Sam3ImageProcessorFast",
        "size": {"height": 56, "width": 56},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "mask_size": {"height": 16, "width": 16},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def _clipseg(folder: Path, kind: str, labels: dict[int, str]) -> None:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, ViTImageProcessorPil

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config=text_tower(),
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        initializer_factor=20.0,
    )
    CLIPSegForImageSegmentation(config).eval().save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)


def _labelled(folder: Path, kind: str, labels: dict[int, str]) -> None:
    import transformers

    model, processor = {"mask2former": _mask2former, "oneformer": _oneformer, "eomt": _eomt}[kind](
        transformers, {"id2label": labels, "label2id": {name: place for place, name in labels.items()}}
    )
    with torch.no_grad():  # classes that differ from query to query, masks from pixel to pixel
        for name, value in model.named_parameters():
            if value.ndim > 1 and ("class" in name or "mask_" in name):
                value.mul_((300.0 if kind == "oneformer" else 40.0) if "class" in name else 2.5)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)


def _mask2former(transformers: Any, labels: dict[str, Any]) -> tuple[Any, Any]:
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=7,
        **labels,
    )
    size = {"shortest_edge": 48, "longest_edge": 96}
    processor = transformers.Mask2FormerImageProcessorPil(size=size)
    return transformers.Mask2FormerForUniversalSegmentation(config), processor


def _oneformer(transformers: Any, labels: dict[str, Any]) -> tuple[Any, Any]:
    config = transformers.OneFormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        num_queries=7,
        hidden_dim=32,
        conv_dim=32,
        mask_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        query_dec_layers=1,
        task_seq_len=8,
        max_seq_len=8,
        is_training=False,
        **labels,
    )
    size = {"shortest_edge": 48, "longest_edge": 96}
    processor = transformers.OneFormerImageProcessorPil(size=size)
    processor.class_info_file = "coco_panoptic.json"  # as published: a file of the hub, which is not read
    return transformers.OneFormerForUniversalSegmentation(config), processor


def _eomt(transformers: Any, labels: dict[str, Any]) -> tuple[Any, Any]:
    config = transformers.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=64,
        patch_size=8,
        num_queries=7,
        num_blocks=1,
        num_upscale_blocks=1,
        **labels,
    )
    size = {"shortest_edge": 64, "longest_edge": 64}
    processor = transformers.EomtImageProcessorPil(size=size, do_pad=True)
    return transformers.EomtForUniversalSegmentation(config), processor
