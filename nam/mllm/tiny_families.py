"""The families of which `nam.mllm.tiny_vlm` makes tiny random models: classes, sizes, tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

HIDDEN = 32
TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.3,
}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": HIDDEN,
    "initializer_range": 0.3,
}
WINDOWS: dict[str, Any] = {
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
SPLITS = tuple(f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5))
EDGES = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
SQUARE = {"height": 32, "width": 32}


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a tiny model of one family is made.

    Attributes:
        model: Class of the model; its config is its `config_class`.
        config: From a function that gives a token's id to the config's settings.
        tokens: Special tokens beside the turns'.
        names: Attributes of the tokenizer -> the tokens that they name.
        picture: The placeholder in the chat template; "" for a model that reads words alone.
        images: Class of the image processor, and its settings.
        processor: Class of the processor, and its settings.
        dense: Whether its FFNs are supported; False for what must be refused.
    """

    model: str
    config: Callable[[Callable[[str], int]], dict[str, Any]]
    tokens: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    picture: str = ""
    images: tuple[str, dict[str, Any]] = ("", {})
    processor: tuple[str, dict[str, Any]] = ("", {})
    dense: bool = True


def _smol(model: str, images: str, processor: str, vision: str) -> Family:
    return Family(
        model=model,
        config=lambda id_of: {
            "text_config": {"model_type": "llama", **TEXT},
            "vision_config": {"model_type": vision, **VISION},
            "image_token_id": id_of("<image>"),
            "scale_factor": 2,
        },
        tokens=("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *SPLITS),
        picture="<image>",
        images=(images, EDGES),
        processor=(processor, {"image_seq_len": 4}),
    )


def _qwen(model: str, text: dict[str, Any], vision: dict[str, Any]) -> Family:
    return Family(
        model=model,
        config=lambda id_of: {
            "text_config": {**TEXT, "rope_parameters": MROPE, **text},
            "vision_config": {**QWEN_VISION, **vision},
            "image_token_id": id_of("<|image_pad|>"),
            "video_token_id": id_of("<|video_pad|>"),
            "vision_start_token_id": id_of("<|vision_start|>"),
            "vision_end_token_id": id_of("<|vision_end|>"),
        },
        tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
        picture=QWEN_PICTURE,
        images=("Qwen2VLImageProcessorPil", {"patch_size": 4, "min_pixels": 64, "max_pixels": 576}),
        processor=(model.replace("ForConditionalGeneration", "Processor"), {}),
    )


def _words(model: str, **changes: Any) -> Family:
    return Family(model=model, config=lambda id_of: {**TEXT, **changes})


#: By name; what holds for one of them must hold for all.
FAMILIES: dict[str, Family] = {
    "llava": Family(
        model="LlavaForConditionalGeneration",
        config=lambda id_of: {
            "text_config": {"model_type": "llama", **TEXT},
            "vision_config": {"model_type": "clip_vision_model", **VISION, "projection_dim": 16},
            "image_token_index": id_of("<image>"),
            "image_seq_length": 16,
        },
        tokens=("<image>",),
        picture="<image>",
        images=("CLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
        processor=(
            "LlavaProcessor",
            {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        ),
    ),
    "qwen2_5_vl": _qwen(
        "Qwen2_5_VLForConditionalGeneration", {}, {"window_size": 16, "fullatt_block_indexes": [1]}
    ),
    "qwen3_vl": _qwen(
        "Qwen3VLForConditionalGeneration",
        {"head_dim": 8},
        {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    ),
    "internvl": Family(
        model="InternVLForConditionalGeneration",
        config=lambda id_of: {
            "text_config": {"model_type": "qwen2", **TEXT},
            "vision_config": {"model_type": "internvl_vision", **VISION},
            "image_token_id": id_of("<IMG_CONTEXT>"),
            "image_seq_length": 4,
        },
        tokens=("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        names={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        picture="<IMG_CONTEXT>",
        images=("GotOcr2ImageProcessorPil", {"size": SQUARE, "max_patches": 3}),
        processor=("InternVLProcessor", {"image_seq_length": 4}),
    ),
    "gemma3": Family(
        model="Gemma3ForConditionalGeneration",
        config=lambda id_of: {
            "text_config": {**TEXT, "head_dim": 8, **WINDOWS},
            "vision_config": {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
            "mm_tokens_per_image": 4,
            "image_token_index": id_of("<image_soft_token>"),
            "boi_token_index": id_of("<start_of_image>"),
            "eoi_token_index": id_of("<end_of_image>"),
        },
        tokens=("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
        names={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        picture="<start_of_image>",
        images=("Gemma3ImageProcessorPil", {"size": SQUARE}),
        processor=("Gemma3Processor", {"image_seq_length": 4}),
    ),
    "idefics3": _smol(
        "Idefics3ForConditionalGeneration",
        "Idefics3ImageProcessorPil",
        "Idefics3Processor",
        "idefics3_vision",
    ),
    "smolvlm": _smol(
        "SmolVLMForConditionalGeneration", "SmolVLMImageProcessorPil", "SmolVLMProcessor", "smolvlm_vision"
    ),
    "llama": _words("LlamaForCausalLM"),
    "phi": _words("PhiForCausalLM"),
    "granite": _words("GraniteForCausalLM", residual_multiplier=0.4),
    "mixtral": Family(
        model="MixtralForCausalLM",
        config=lambda id_of: {**TEXT, "num_local_experts": 2},
        dense=False,
    ),
}
