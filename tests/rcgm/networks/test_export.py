"""What leaves for diffusers: loaded there without anything of ours, it is the network that was trained."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

from rcgm.networks import NETWORKS, few_step
from rcgm.networks.interval_file import INTERVAL_FILE, read_interval
from rcgm.networks.pipelines import PIPELINES, TextPipeline
from rcgm.networks.saving import LORA_FILE, save_adapter, save_published
from rcgm.networks.stock import stock_class
from rcgm.roles import base_of
from rcgm.sampling import sample_any_step, sample_ode
from tests.support.roles import small_role
from tests.support.stock_images import stock_images
from tests.support.tiny_networks import FAMILIES
from tests.support.tiny_pipelines import tiny_pipeline

OWN_INTERVAL = ("anyflow",)


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    return request.param


def role_of(name: str, **options):
    """A trained role; alpha is not the rank, so that its scale counts."""
    return small_role(network=NETWORKS[name](FAMILIES[name].build(), **options), rank=2, alpha=3.0)


def point(name: str) -> tuple:
    family = FAMILIES[name]
    t = torch.tensor([0.9, 0.3])
    return torch.randn(2, *family.latents, generator=torch.Generator().manual_seed(3)), t, t / 2, family.cond(2)


@torch.no_grad()
def test_the_merged_folder_is_the_role(tmp_path, name):
    role = role_of(name)
    folder = save_published(role, tmp_path / "out")
    loaded = stock_class(NETWORKS[name].STOCK).from_pretrained(folder / "transformer")
    network = NETWORKS[name](loaded).requires_grad_(False).eval()
    assert (folder / INTERVAL_FILE).is_file() == (name not in OWN_INTERVAL)
    if name not in OWN_INTERVAL:
        header, tensors = read_interval(folder)
        assert (header.family, header.sampler, header.format_version) == (name, "any_step", "1")
        network.interval_embedder.load_state_dict(tensors)
    expected = role(*point(name))
    assert not torch.allclose(expected, role.without_adapter()(*point(name)), rtol=0.01)
    torch.testing.assert_close(network(*point(name)), expected)


@torch.no_grad()
def test_diffusers_loads_the_adapter_at_its_scale(tmp_path, name, caplog):
    role = role_of(name)
    for key, parameter in role.named_parameters():
        if key.startswith("interval_embedder.linear_2"):  # which diffusers does not have
            parameter.zero_()
    folder = save_adapter(role, tmp_path / "out")
    pipeline = tiny_pipeline(name)
    if hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(folder)
    else:
        pipeline.transformer.load_lora_adapter(folder / LORA_FILE)
    assert "keys found in the model" not in caplog.text and "missing keys" not in caplog.text
    network = NETWORKS[name](pipeline.transformer).requires_grad_(False).eval()
    torch.testing.assert_close(network(*point(name)), role(*point(name)))


PROMPTS = ["a red three", "two blue nines"]
STEPS = (1, 2, 4)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in OWN_INTERVAL])
@torch.no_grad()
def test_the_stock_pipeline_makes_the_samples_of_any_step(tmp_path, name):
    """With the adapters, and with the weights that they are added to; scales of guidance are those of the training."""
    stock = tiny_pipeline(name)
    stock.save_pretrained(tmp_path / "stock")
    kind = type(stock)
    role = small_role(network=NETWORKS[name](stock.transformer), rank=2, alpha=3.0)
    save_adapter(role, tmp_path / "lora")
    save_published(role, tmp_path / "merged", pipeline=tmp_path / "stock")
    with_lora = kind.from_pretrained(tmp_path / "stock")
    if hasattr(with_lora, "load_lora_weights"):
        with_lora.load_lora_weights(tmp_path / "lora")
    else:
        with_lora.transformer.load_lora_adapter(tmp_path / "lora" / LORA_FILE)
    pipelines = [few_step(with_lora, tmp_path / "lora")]
    pipelines.append(few_step(kind.from_pretrained(tmp_path / "merged"), tmp_path / "merged"))
    few_step(pipelines[-1], tmp_path / "merged")  # once more changes nothing
    text = TextPipeline.from_pretrained(name, tmp_path / "stock")
    frames = (3,) if PIPELINES[name].video else ()
    noise = torch.randn(2, 4, *frames, 16, 16, generator=torch.Generator().manual_seed(5))
    seen = []
    for steps in STEPS:
        latents = sample_any_step(role, noise, text.encode_prompts(PROMPTS), steps=steps)
        expected = (text.decode_latents(latents) / 2 + 0.5).clamp(0, 1)
        for pipeline in pipelines:
            pipeline.set_progress_bar_config(disable=True)
            found = stock_images(name, pipeline, PROMPTS, noise, steps)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        seen.append(expected)
    assert (seen[0] - seen[1]).abs().max() > 0.01 and (seen[0][0] - seen[0][1]).abs().max() > 0.01


def test_a_role_that_does_not_know_the_interval_leaves_no_embedding(tmp_path):
    role = role_of("sana", interval="none")
    assert sorted(path.name for path in save_adapter(role, tmp_path / "lora").iterdir()) == [LORA_FILE]
    assert [path.name for path in save_published(role, tmp_path / "out").iterdir()] == ["transformer"]
    with pytest.raises(ValueError, match="folder must hold interval_embedder"):
        few_step(tiny_pipeline("sana"), tmp_path / "out")


def test_what_does_not_fit_a_pipeline_is_refused(tmp_path):
    role = role_of("sana")
    folder = save_adapter(role, tmp_path / "lora")
    with pytest.raises(ValueError, match="pipeline must have the LoRA of"):
        few_step(tiny_pipeline("sana"), folder)
    merged = save_published(role, tmp_path / "merged")
    with pytest.raises(TypeError, match="transformer must be a SanaTransformer2DModel"):
        few_step(tiny_pipeline("sd3"), merged)
    with pytest.raises(ValueError, match="got one trained for consistency"):
        few_step(tiny_pipeline("sana"), save_published(role, tmp_path / "other", sampler="consistency"))
    with pytest.raises(FileExistsError, match="is there already"):
        save_published(role, merged)
    with pytest.raises(ValueError, match=r"model\.path must be the local folder of a whole pipeline"):
        save_published(role, tmp_path / "whole", pipeline=merged)
    assert not (tmp_path / "whole").exists()
    with pytest.raises(TypeError, match="role must be a network with adapters"):
        save_adapter(base_of(role), tmp_path / "full")


def test_a_network_that_begins_a_step_with_its_velocity_is_sampled_so(tmp_path):
    """Flow matching: the interval is empty in training, and in every step."""
    role = role_of("sana")
    pipeline = few_step(tiny_pipeline("sana"), save_published(role, tmp_path / "out", sampler="euler"))
    pipeline.transformer.load_state_dict(
        type(pipeline.transformer).from_pretrained(tmp_path / "out" / "transformer").state_dict()
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    tiny_pipeline("sana").save_pretrained(tmp_path / "stock")
    text = TextPipeline.from_pretrained("sana", tmp_path / "stock")
    with torch.no_grad():
        latents = sample_ode(role, noise, text.encode_prompts(PROMPTS), steps=2)
    expected = (text.decode_latents(latents) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(stock_images("sana", pipeline, PROMPTS, noise, 2), expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_pipeline_is_offloaded_before_or_afterwards(tmp_path):
    """Offloading replaces the forward of the transformer, and puts it back after every call of the pipeline."""
    stock = tiny_pipeline("sana")
    stock.save_pretrained(tmp_path / "stock")
    role = small_role(network=NETWORKS["sana"](stock.transformer), rank=2)
    folder = save_published(role, tmp_path / "out", pipeline=tmp_path / "stock")
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    images = []
    for steps_first in (True, False):
        pipeline = type(stock).from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        if steps_first:
            few_step(pipeline, folder)
        add_hook_to_module(pipeline.transformer, ModelHook())
        if not steps_first:
            few_step(pipeline, folder)
        images.append(stock_images("sana", pipeline, PROMPTS, noise, 2))
        remove_hook_from_module(pipeline.transformer)
        images.append(stock_images("sana", pipeline, PROMPTS, noise, 2))
    assert all(torch.equal(other, images[0]) for other in images[1:])
