"""The stock pipeline's loop defines what a network means: ours, with the sampler ``euler``, makes the same latents."""

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    QwenImagePipeline,
    SanaPipeline,
    StableDiffusion3Pipeline,
)

from rcgm.networks import NETWORKS
from rcgm.networks.packing import packed, unpacked
from rcgm.sampling import sample_ode
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


PIPELINES = {"sana": sana, "sd3": sd3, "qwen_image": qwen_image, "flux": flux}


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_same_latents_as_the_stock_pipeline(name):
    family = FAMILIES[name]
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(2, *family.latents, generator=generator)
    cond = family.cond(2)
    _, rows, columns = family.latents

    def options(factor: int) -> dict:
        return {
            "height": rows * factor, "width": columns * factor, "num_inference_steps": STEPS, "output_type": "latent",
        }  # fmt: skip

    pipe, output = PIPELINES[name](family.build(), noise, cond, options)
    expected = output.images
    if expected.ndim == 3:
        expected = unpacked(expected, rows, columns)
    times = pipe.scheduler.sigmas.tolist()
    assert len(times) == STEPS + 1
    guidance = {"guidance": 2.0} if name == "flux" else {}
    network = NETWORKS[name](family.build(), **guidance).eval()
    samples = sample_ode(network, noise, cond, times=times)
    moved = (expected - noise).abs().max()
    assert moved > 0.1
    # The pipelines give times of 1000 sigma rounded to float32, whose last place turns sinusoids by 6e-5 at most.
    assert (samples - expected).abs().max() <= 1e-3 * moved
