"""Prompts and images to what a network takes, and back: as the stock pipelines do it."""

import json

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from rcgm.networks import NETWORKS
from rcgm.networks.pipelines import PIPELINES, TextPipeline
from rcgm.sampling import sample_any_step, sample_ode
from tests.support.stock_images import stock_images
from tests.support.tiny_pipelines import PARTS, tiny_pipeline

PROMPTS = ["a red fox, asleep", "Two Yellow 'Nines'!"]
STEPS = 3


@pytest.fixture(scope="module", params=PARTS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    path = tmp_path_factory.mktemp(name)
    tiny_pipeline(name).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipeline(name, folder) -> TextPipeline:
    return TextPipeline.from_pretrained(name, folder)


def images(name: str, pipeline: TextPipeline) -> torch.Tensor:
    frames = (1 + 2 * pipeline.frame_factor,) if PIPELINES[name].video else ()
    sides = 4 * pipeline.multiple, 3 * pipeline.multiple
    return torch.rand(2, 3, *frames, *sides, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_every_pipeline_is_tested():
    assert set(PARTS) == set(PIPELINES) <= set(NETWORKS)


@torch.no_grad()
def test_from_prompts_to_images_as_the_stock_pipeline(name, folder, pipeline):
    stock = tiny_pipeline(name)
    frames = (3,) if PIPELINES[name].video else ()
    noise = torch.randn(2, 4, *frames, 16, 16, generator=torch.Generator().manual_seed(5))
    expected = stock_images(name, stock, PROMPTS, noise, STEPS)
    options = {"guidance": 2.0} if name == "flux" else {}
    network = NETWORKS[name].from_pretrained(folder, **options).eval()
    cond = pipeline.encode_prompts(PROMPTS)
    assert cond["text"].shape[:2] == (2, pipeline.length) or name == "sd3"
    sample = sample_any_step if name == "anyflow" else sample_ode
    latents = sample(network, noise, cond, times=stock.scheduler.sigmas.tolist())
    found = (pipeline.decode_latents(latents) / 2 + 0.5).clamp(0, 1)
    # as tests/rcgm/networks/test_pipelines.py: times rounded by the pipeline
    assert (found - expected).abs().max() <= 1e-3
    assert (found[0] - found[1]).abs().max() > 0.01


@torch.no_grad()
def test_prompts_are_told_apart(name, pipeline):
    cond, null = pipeline.encode_prompts([*PROMPTS, ""]), pipeline.encode_null()
    assert set(cond) == set(null) >= set(NETWORKS[name].conditions)
    assert all(value.shape[0] == 3 and null[key].shape == value[:1].shape for key, value in cond.items())
    for key in ("text", "pooled"):
        if key in cond:
            assert len({tuple(row.flatten().tolist()) for row in cond[key]}) == 3
    alone = pipeline.encode_prompts(PROMPTS[1:])
    for key, value in alone.items():  # a prompt alone has no padding up to its batch
        torch.testing.assert_close(value, cond[key][1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negative", ["", "blurred"])
@torch.no_grad()
def test_the_null_condition_is_that_of_the_negative_prompt(name, pipeline, negative):
    stock, null = tiny_pipeline(name), pipeline.encode_null(negative)
    if name == "sana":
        _, _, text, mask = stock.encode_prompt(PROMPTS[:1], negative_prompt=negative)
        expected = {"text": text, "mask": mask}
    elif name == "sd3":
        _, text, _, pooled = stock.encode_prompt(PROMPTS[:1], None, None, negative_prompt=negative)
        expected = {"text": text, "pooled": pooled}
    elif name == "flux":
        text, pooled, _ = stock.encode_prompt([negative])
        expected = {"text": text, "pooled": pooled}
    elif name == "hunyuan_image":
        expected = dict(zip(("text", "mask", "text_2", "mask_2"), stock.encode_prompt(negative or None), strict=True))
    elif name in ("wan", "anyflow"):
        _, text = stock.encode_prompt(PROMPTS[:1], negative, max_sequence_length=512)
        expected = {"text": text}
    else:  # they have no fixed length
        text = stock.encode_prompt([negative])[0][0].reshape(1, -1, null["text"].shape[2])
        expected = {"text": text}
        assert null["mask"].sum() == text.shape[1]
        null = {"text": null["text"][:, : text.shape[1]]}
    assert set(null) == set(expected)
    assert all(torch.equal(null[key], value) for key, value in expected.items())


@torch.no_grad()
def test_images_there_and_back_are_those_of_the_autoencoder(name, pipeline):
    vae, given = tiny_pipeline(name).vae, images(name, pipeline)
    video = given.unsqueeze(2) if name == "qwen_image" else given
    encoded = vae.encode(video)
    latents = encoded.latent if name == "sana" else encoded.latent_dist.mode()
    expected = vae.decode(latents).sample
    found = pipeline.encode_images(given)
    frames = (3,) if PIPELINES[name].video else ()
    assert found.shape == (
        2,
        pipeline.latent_channels,
        *frames,
        *(side // pipeline.factor for side in given.shape[-2:]),
    )
    assert found.dtype == torch.float32
    # scaled, shifted and back: some roundings of the latents, which the decoder passes on
    torch.testing.assert_close(pipeline.decode_latents(found), expected.reshape(given.shape), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_generator_draws_from_the_posterior(name, pipeline):
    given = images(name, pipeline)
    draws = [pipeline.encode_images(given, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2]) == (name == "sana")  # DC-AE has no posterior


def test_prompts_that_are_cut_are_told(name, folder, pipeline):
    (empty,) = PIPELINES[name].token_counts(pipeline.pipeline, [""])
    pipeline = TextPipeline.from_pretrained(name, folder, parts=("text",), length=empty + 8)
    lengths = range(1, 16)
    prompts = [("ab" * 8)[:count] for count in lengths]
    cut = pipeline.too_long(prompts)
    assert cut == sorted(cut) and not cut[0] and cut[-1]
    cond = pipeline.encode_prompts([*prompts, *(prompt + "c" for prompt in prompts)])
    for row, too_long in enumerate(pipeline.too_long([prompt + "c" for prompt in prompts])):
        same = all(
            torch.equal(value[row], value[row + len(prompts)]) for key, value in cond.items() if key in ("text", "mask")
        )
        assert same <= too_long  # nothing is lost of what is not told


def test_only_the_parts_asked_for_are_loaded(name, folder):
    text = TextPipeline.from_pretrained(name, folder, parts=("text",), dtype="bfloat16")
    assert text.pipeline.vae is None
    assert text.encode_prompts(PROMPTS)["text"].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="parts must have 'vae' for this, got text: load it too"):
        text.decode_latents(torch.zeros(1, 4, 8, 8))
    vae = TextPipeline.from_pretrained(name, folder, parts=("vae",), dtype="bfloat16")
    assert vae.pipeline.text_encoder is None and vae.pipeline.tokenizer is None
    assert vae.pipeline.vae.dtype == torch.float32
    with pytest.raises(ValueError, match="parts must have 'text' for this, got vae: load it too"):
        vae.encode_prompts(PROMPTS)
    both = TextPipeline.from_pretrained(name, folder)
    assert getattr(both.pipeline, "transformer", None) is None
    assert not any(parameter.requires_grad for parameter in both.pipeline.vae.parameters())
    assert len({part.files_hash() for part in (text, vae, both)}) == 3


def test_inputs_that_do_not_fit_are_refused(name, pipeline):
    video = PIPELINES[name].video
    side = pipeline.multiple
    with pytest.raises(ValueError, match=r"images must be .*\[B, 3, H, W\], H and W multiples of \d+, got"):
        pipeline.encode_images(torch.zeros(1, 3, side, side + 1))
    with pytest.raises(ValueError, match=r"latents must be \[B, 4, (t, )?h, w\], got \[1, 5, 8, 8\]"):
        pipeline.decode_latents(torch.zeros(1, 5, 8, 8))
    if video:
        assert pipeline.encode_images(torch.zeros(1, 3, side, side)).shape[2] == 1
        with pytest.raises(ValueError, match=r"images must have 1 \+ a multiple of 2 frames, got 4: cut some"):
            pipeline.encode_images(torch.zeros(1, 3, 4, side, side))
    with pytest.raises(TypeError, match="prompts must be a sequence of strings, got the string 'a fox'"):
        pipeline.encode_prompts("a fox")


def test_folders_that_do_not_fit_are_refused(tmp_path):
    load = TextPipeline.from_pretrained
    with pytest.raises(ValueError, match="family must be one of sana, sd3"):
        load("dalle", tmp_path)
    with pytest.raises(ValueError, match="parts must be one of text, vae, got 'unet'"):
        load("sana", tmp_path, parts=("unet",))
    with pytest.raises(ValueError, match="path must be the folder of a pipeline or a name on the hub"):
        load("sana", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"path must be a folder with model_index\.json"):
        load("sana", tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ValueError, match=r"path must hold a SanaPipeline, got .* with FluxPipeline"):
        load("sana", tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SanaPipeline", "vae": ["x", "y"]}))
    with pytest.raises(ValueError, match="path: cannot load the SanaPipeline in"):
        load("sana", tmp_path)


@torch.no_grad()
def test_stable_diffusion_without_t5(tmp_path):
    stock = tiny_pipeline("sd3")
    stock.register_modules(text_encoder_3=None, tokenizer_3=None)
    stock.save_pretrained(tmp_path)
    pipeline = TextPipeline.from_pretrained("sd3", tmp_path)
    text, _, pooled, _ = stock.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
    cond = pipeline.encode_prompts(PROMPTS)
    assert torch.equal(cond["text"], text) and torch.equal(cond["pooled"], pooled)
    assert not cond["text"][:, 77:].any()
