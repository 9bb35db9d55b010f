"""Samples of prompts: which noise and conditions they have, and what is refused."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from rcgm.networks.pipelines import TextPipeline
from rcgm.runs import PromptCaptions, load_run
from rcgm.runs.loading import describe_run
from rcgm.runs.prompts import STRIDE
from tests.support.prompt_run import LENGTH, SHAPE, prompt_run

CPU = torch.device("cpu")
PROMPTS = ["a red three", "two blue nines", "a red three"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("prompts")
    prompt_run(root)
    return root


@pytest.fixture(scope="module")
def run(folder):
    return load_run(folder / "run", device=CPU)


@pytest.fixture(scope="module")
def pipeline(folder):
    return TextPipeline.from_pretrained("sana", folder / "sana", parts=("text",), length=LENGTH)


def test_conditions_are_those_of_the_pipeline(pipeline):
    captions = PromptCaptions(pipeline, PROMPTS, each=2, batch_size=1)
    assert len(captions) == 6
    assert captions.texts(range(1, 5)) == ["a red three", "two blue nines", "two blue nines", "a red three"]
    expected = pipeline.encode_prompts(["two blue nines"])
    for name, tensor in captions.condition(range(2, 4)).items():
        assert torch.equal(tensor, expected[name].expand_as(tensor).to(tensor.dtype))
    assert captions.condition(range(1))["mask"].dtype == torch.bool
    for name, tensor in captions.null.items():
        assert torch.equal(tensor, pipeline.encode_null()[name].to(tensor.dtype))


def test_a_sample_depends_on_neither_the_number_of_prompts_nor_that_of_samples(run, pipeline):
    few = run.sampler(captions=PromptCaptions(pipeline, PROMPTS, each=1)).draw(3, steps=2)
    many = run.sampler(captions=PromptCaptions(pipeline, [*PROMPTS, "more"], each=3)).draw(12, steps=2, largest=5)
    torch.testing.assert_close(many[::3][:3], few, rtol=1e-4, atol=1e-5)
    # one prompt of many, with its number
    second = PromptCaptions(pipeline, PROMPTS[1:2], each=2, numbers=[1])
    assert second.noise_keys(range(2)) == [STRIDE, STRIDE + 1]
    torch.testing.assert_close(run.sampler(captions=second).draw(2, steps=2), many[3:5], rtol=1e-4, atol=1e-5)
    # the same prompt at another place has other noise
    assert not torch.allclose(few[0], few[2], atol=1e-2)


def test_the_negative_prompt_replaces_the_empty_one(run, pipeline):
    plain, negative = (PromptCaptions(pipeline, PROMPTS, negative=text) for text in ("", "blurred"))
    expected = pipeline.encode_null("blurred")
    assert torch.equal(negative.null["text"], expected["text"])
    assert not torch.equal(plain.null["text"], negative.null["text"])
    draws = [run.sampler(captions=captions, guidance=2.0).draw(3, steps=1) for captions in (plain, negative)]
    assert not torch.allclose(*draws)
    without = [run.sampler(captions=captions).draw(3, steps=1) for captions in (plain, negative)]
    assert torch.equal(*without)


def test_samples_of_another_size(run, pipeline):
    captions = PromptCaptions(pipeline, PROMPTS)
    assert run.sampler(captions=captions).draw(3, steps=1).shape == (3, *SHAPE)
    assert run.sampler(captions=captions, size=(6, 8)).draw(3, steps=1).shape == (3, 4, 6, 8)
    with pytest.raises(ValueError, match="each side of size must be at least 1"):
        run.sampler(captions=captions, size=(6, 0))


def test_long_prompts_are_named(pipeline):
    captions = PromptCaptions(pipeline, ["short", "long " * 10])
    assert captions.cut == ["long " * 10]


def test_a_function_of_ones_own_encodes(run, pipeline):
    asked = []

    def encode(texts):
        asked.append(list(texts))
        return pipeline.encode_prompts(texts)

    captions = PromptCaptions(encode, PROMPTS, negative="no")
    assert asked == [["a red three", "two blue nines"], ["no"]]
    assert captions.cut == []
    ours = PromptCaptions(pipeline, PROMPTS)
    assert torch.equal(captions.condition(range(3))["text"], ours.condition(range(3))["text"])
    narrow = PromptCaptions(lambda texts: {"text": torch.zeros(len(texts), 3, 2)}, PROMPTS)
    with pytest.raises(ValueError, match="encode them as the data were"):
        run.sampler(captions=narrow)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "prompts must be one or more"),
        (["a", " "], {}, "none of them blank"),
        (["a"], {"each": 0}, "each must be at least 1"),
        (["a"], {"each": STRIDE + 1}, "each must be at most"),
        (["a"], {"numbers": [0, 1]}, "numbers must be 1, one a prompt, got 2"),
        (["a"], {"numbers": [-1]}, "each number of numbers must be at least 0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_encoded(prompts, options, message):
    def never(texts):
        raise AssertionError

    with pytest.raises(ValueError, match=message):
        PromptCaptions(never, prompts, **options)


def test_other_errors(pipeline):
    with pytest.raises(TypeError, match="put it in a list"):
        PromptCaptions(pipeline, "a prompt")
    with pytest.raises(TypeError, match="must be a dict of tensors"):
        PromptCaptions(lambda texts: torch.zeros(1), ["a"])
    with pytest.raises(ValueError, match="samples must be from 0 to 1, got 2"):
        PromptCaptions(pipeline, ["a", "b"]).texts(range(3))


def test_a_run_is_described_without_its_network(folder, run):
    described = describe_run(folder / "run")
    assert (described.config, described.info, described.step) == (run.config, run.info, 2)
