"""The stock pipeline's loop defines what a network means: ours, with the sampler ``euler``, makes the same latents.

Networks with an embedding of ``r`` jump from time to time in their pipelines, as our sampler ``any_step`` does.
"""

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import (
    AnyFlowPipeline,
    AutoencoderKL,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    HunyuanImagePipeline,
    QwenImagePipeline,
    SanaPipeline,
    StableDiffusion3Pipeline,
    WanPipeline,
    ZImagePipeline,
)

from rcgm.networks import NETWORKS
from rcgm.networks.packing import packed, unpacked
from rcgm.sampling import sample_any_step, sample_ode
from tests.support import tiny_networks as networks
from tests.support.tiny_networks import FAMILIES

STEPS = 4
SHIFT = 3.0


def vae(channels: int, factor: int) -> AutoencoderKL:
    """Of the pipelines it says the number of channels and the factor of the sizes; it decodes nothing here."""
    blocks = factor.bit_length()
    return AutoencoderKL(
        latent_channels=channels, block_out_channels=(4,) * blocks, norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
    )  # fmt: skip


def sana(transformer, noise, cond, options):
    pipe = SanaPipeline(None, None, None, transformer, FlowMatchEulerDiscreteScheduler(shift=SHIFT))
    return pipe, pipe(
        prompt_embeds=cond["text"], prompt_attention_mask=cond["mask"], latents=noise, guidance_scale=1.0,
        use_resolution_binning=False, **options(32),
    )  # fmt: skip


def sd3(transformer, noise, cond, options):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    pipe = StableDiffusion3Pipeline(transformer, scheduler, vae(4, 8), None, None, None, None, None, None)
    return pipe, pipe(
        prompt_embeds=cond["text"], pooled_prompt_embeds=cond["pooled"], latents=noise, guidance_scale=1.0,
        **options(8),
    )  # fmt: skip


def qwen_image(transformer, noise, cond, options):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=True)
    pipe = QwenImagePipeline(scheduler, None, None, None, transformer)
    return pipe, pipe(
        prompt_embeds=cond["text"], prompt_embeds_mask=cond["mask"], latents=packed(noise), true_cfg_scale=1.0,
        **options(8),
    )  # fmt: skip


def flux(transformer, noise, cond, options):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=True)
    pipe = FluxPipeline(scheduler, None, None, None, None, None, transformer)
    return pipe, pipe(
        prompt_embeds=cond["text"], pooled_prompt_embeds=cond["pooled"], latents=packed(noise), guidance_scale=2.0,
        **options(8),
    )  # fmt: skip


def z_image(transformer, noise, cond, options):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=True)
    pipe = ZImagePipeline(scheduler, vae(4, 8), None, None, transformer)
    states = [text[mask.bool()] for text, mask in zip(cond["text"], cond["mask"], strict=True)]
    return pipe, pipe(prompt_embeds=states, latents=noise, guidance_scale=0.0, **options(8))


def wan(transformer, noise, cond, options):
    pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(shift=SHIFT), transformer)
    return pipe, pipe(prompt_embeds=cond["text"], latents=noise, guidance_scale=1.0, num_frames=9, **options(8))


def hunyuan_image(transformer, noise, cond, options):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    pipe = HunyuanImagePipeline(scheduler, None, None, None, None, None, transformer)
    nothing = {
        "prompt_embeds_2": torch.zeros(2, 1, 10),
        "prompt_embeds_mask_2": torch.zeros(2, 1),
    }
    return pipe, pipe(
        prompt_embeds=cond["text"], prompt_embeds_mask=cond["mask"], latents=noise, **nothing, **options(32)
    )


def anyflow(transformer, noise, cond, options):
    scheduler = FlowMapEulerDiscreteScheduler(shift=SHIFT)
    pipe = AnyFlowPipeline(vae=None, text_encoder=None, tokenizer=None, transformer=transformer, scheduler=scheduler)
    return pipe, pipe(prompt_embeds=cond["text"], latents=noise, num_frames=9, **options(8))


PIPELINES = {
    "sana": sana,
    "sd3": sd3,
    "qwen_image": qwen_image,
    "flux": flux,
    "z_image": z_image,
    "wan": wan,
    "hunyuan_image": hunyuan_image,
    "anyflow": anyflow,
}
DISTILLED = networks.hunyuan_image(use_meanflow=True, guidance_embeds=True)


@pytest.mark.parametrize(("name", "family"), [*FAMILIES.items(), ("hunyuan_image", DISTILLED)])
@torch.no_grad()
def test_the_same_latents_as_the_stock_pipeline(name, family):
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(2, *family.latents, generator=generator)
    cond = family.cond(2)
    rows, columns = family.latents[-2:]

    def options(factor: int) -> dict:
        return {
            "height": rows * factor, "width": columns * factor, "num_inference_steps": STEPS, "output_type": "latent",
        }  # fmt: skip

    pipe, output = PIPELINES[name](family.build(), noise, cond, options)
    expected = output.frames if len(family.latents) == 4 else output.images
    if expected.ndim == 3:
        expected = unpacked(expected, rows, columns)
    times = pipe.scheduler.sigmas.tolist()
    assert len(times) == STEPS + 1
    guidance = {"guidance": 2.0} if name == "flux" else {}
    network = NETWORKS[name](family.build(), **guidance).eval()
    sample = sample_any_step if family.own_interval else sample_ode
    samples = sample(network, noise, cond, times=times)
    moved = (expected - noise).abs().max()
    assert moved > 0.1
    # The pipelines give times of 1000 sigma rounded to float32, whose last place turns sinusoids by 6e-5 at most.
    assert (samples - expected).abs().max() <= 1e-3 * moved
