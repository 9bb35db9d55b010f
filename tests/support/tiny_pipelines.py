"""Whole pipelines of the real classes, tiny and with random weights, tokenizers of single characters included."""

from __future__ import annotations

import string

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLHunyuanImage,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.support.tiny_networks import FAMILIES

SHIFT = 3.0
CHARACTERS = [*string.ascii_letters, *string.digits, *".,:;!?-'()\n"]
SIZE = 160
"""Entries of each vocabulary: enough for the characters and special tokens."""


def gemma() -> GemmaTokenizer:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    return GemmaTokenizer(vocab=_numbered([*special, *CHARACTERS, "▁"]), merges=[])


def clip() -> CLIPTokenizer:
    ends = [f"{character}</w>" for character in CHARACTERS]
    vocab = _numbered([*CHARACTERS, *ends, "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def t5() -> T5TokenizerFast:
    vocab = [(word, 0.0) for word in ("<pad>", "</s>", "<unk>")]
    return T5TokenizerFast(vocab=[*vocab, *((character, -2.0) for character in ["▁", *CHARACTERS])], extra_ids=0)


def qwen() -> Qwen2Tokenizer:
    vocab = _numbered([*CHARACTERS, "Ġ", "Ċ", "<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def _numbered(words: list[str]) -> dict[str, int]:
    assert len(words) <= SIZE
    return {word: number for number, word in enumerate(dict.fromkeys(words))}


def clip_config(width: int, pooled: int) -> CLIPTextConfig:
    vocab = clip().get_vocab()
    return CLIPTextConfig(
        vocab_size=SIZE, hidden_size=width, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=pooled, bos_token_id=vocab["<|startoftext|>"], eos_token_id=vocab["<|endoftext|>"],
        pad_token_id=vocab["<|endoftext|>"],
    )  # fmt: skip


def t5_encoder(width: int) -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=SIZE, d_model=width, d_kv=4, d_ff=8, num_layers=2, num_heads=2))


def kl(channels: int, **options) -> AutoencoderKL:
    """Two pixels a latent."""
    return AutoencoderKL(
        latent_channels=channels, block_out_channels=(4, 8), norm_num_groups=2, scaling_factor=1.7,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **options,
    )  # fmt: skip


def sana_parts() -> dict:
    text = Gemma2Config(
        vocab_size=SIZE, hidden_size=10, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, query_pre_attn_scalar=4, sliding_window=2048,
    )  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(4, 8), decoder_block_out_channels=(4, 8), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        upsample_block_type="interpolate", downsample_block_type="conv", scaling_factor=0.41,
    )  # fmt: skip
    return {"tokenizer": gemma(), "text_encoder": Gemma2Model(text), "vae": vae}


def sd3_parts() -> dict:
    return {
        "tokenizer": clip(),
        "tokenizer_2": clip(),
        "tokenizer_3": t5(),
        "text_encoder": CLIPTextModelWithProjection(clip_config(4, 5)),
        "text_encoder_2": CLIPTextModelWithProjection(clip_config(6, 5)),
        "text_encoder_3": t5_encoder(12),
        "vae": kl(4, shift_factor=0.06),
    }


def qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    rope = {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 1], "rope_theta": 1e4}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": SIZE, "hidden_size": 12, "intermediate_size": 12, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "rope_scaling": rope,
        },
        vision_config={
            "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 12,
            "fullatt_block_indexes": [0],
        },
        vision_start_token_id=SIZE - 4, vision_end_token_id=SIZE - 3, image_token_id=SIZE - 2,
        video_token_id=SIZE - 1,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config)


CHANNELS = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.5, 2.0, 1.0]}


def qwen_image_parts() -> dict:
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False], **CHANNELS
    )
    return {"tokenizer": qwen(), "text_encoder": qwen_vl(), "vae": vae}


def flux_parts() -> dict:
    return {
        "tokenizer": clip(),
        "tokenizer_2": t5(),
        "text_encoder": CLIPTextModel(clip_config(10, 10)),
        "text_encoder_2": t5_encoder(12),
        "vae": kl(4, shift_factor=0.12),
    }


def z_image_parts() -> dict:
    tokenizer = qwen()
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    text = Qwen3Config(
        vocab_size=SIZE, hidden_size=12, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4,
    )  # fmt: skip
    return {"tokenizer": tokenizer, "text_encoder": Qwen3Model(text), "vae": kl(4, shift_factor=0.12)}


def wan_parts() -> dict:
    text = UMT5Config(vocab_size=SIZE, d_model=12, d_kv=4, d_ff=8, num_layers=2, num_heads=2)
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True], scale_factor_temporal=2,
        scale_factor_spatial=2, **CHANNELS,
    )  # fmt: skip
    return {"tokenizer": t5(), "text_encoder": UMT5EncoderModel(text), "vae": vae}


def hunyuan_image_parts() -> dict:
    bytes_config = T5Config(vocab_size=384, d_model=10, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32), layers_per_block=1,
        spatial_compression_ratio=2, sample_size=32, scaling_factor=0.75,
    )  # fmt: skip
    return {
        "tokenizer": qwen(),
        "text_encoder": qwen_vl(),
        "tokenizer_2": ByT5Tokenizer(),
        "text_encoder_2": T5EncoderModel(bytes_config),
        "vae": vae,
    }


PARTS = {
    "sana": sana_parts,
    "sd3": sd3_parts,
    "qwen_image": qwen_image_parts,
    "flux": flux_parts,
    "z_image": z_image_parts,
    "wan": wan_parts,
    "hunyuan_image": hunyuan_image_parts,
    "anyflow": wan_parts,
}
CLASSES = {
    "sana": "SanaPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "qwen_image": "QwenImagePipeline",
    "flux": "FluxPipeline",
    "z_image": "ZImagePipeline",
    "wan": "WanPipeline",
    "hunyuan_image": "HunyuanImagePipeline",
    "anyflow": "AnyFlowPipeline",
}


def tiny_pipeline(name: str, seed: int = 0) -> diffusers.DiffusionPipeline:
    """The stock pipeline of a family, around the network of ``tests.support.tiny_networks``."""
    torch.manual_seed(seed)
    parts = PARTS[name]()
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.eval()
            if isinstance(
                part, transformers.PreTrainedModel
            ):  # whose weights are drawn so small that all prompts look alike
                for parameter in part.parameters():
                    if parameter.ndim > 1:
                        nn.init.normal_(parameter, std=0.5)
    dynamic = name in ("qwen_image", "flux", "z_image")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=dynamic)
    if name == "anyflow":
        scheduler = FlowMapEulerDiscreteScheduler(shift=SHIFT)
    pipeline = getattr(diffusers, CLASSES[name])(transformer=FAMILIES[name].build(), scheduler=scheduler, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
