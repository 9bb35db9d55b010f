"""`rcgm sample` with prompts: pictures, folders that are filled up and shared, and what is refused."""

import json
import shutil
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from rcgm.cli import main, prompts, runs
from rcgm.networks.pipelines import TextPipeline
from rcgm.runs import PromptCaptions, guidance, layouts, load_run
from tests.support.launching import run_ranks
from tests.support.prompt_run import LENGTH, prompt_run

CPU = torch.device("cpu")
PROMPTS = ["a red three", "two blue nines", "a cat"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample_prompts")
    prompt_run(root)
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    return root


def command(root, *words):
    return ["sample", str(root / "run"), "--device", "cpu", *map(str, words)]


def filling(root, output, *words, layout="flat", steps=2):
    return command(
        root, "--prompts", root / "prompts.txt", "--steps", steps, "--layout", layout, "--output", output, *words
    )


def expected(root, *, each=1, size=None, negative="", guidance=1.0, steps=2, seed=0):
    """Images uint8 of the pipeline's own autoencoder."""
    pipeline = TextPipeline.from_pretrained("sana", root / "sana", length=LENGTH)
    captions = PromptCaptions(pipeline, PROMPTS, each=each, negative=negative)
    sampler = load_run(root / "run", device=CPU).sampler(captions=captions, size=size, guidance=guidance, seed=seed)
    images = pipeline.decode_latents(sampler.draw(3 * each, steps=steps))
    return ((images.clamp(-1, 1) + 1) / 2 * 255).permute(0, 2, 3, 1).numpy()


def read(*paths):
    return np.stack([np.asarray(Image.open(path), dtype=float) for path in paths])


def same_pictures(found, wanted):
    """Up to the rounding of pixels, which a difference of float32 rounding can tip over by one."""
    return found.shape == wanted.shape and np.abs(found - wanted).max() <= 0.51


def test_one_picture_of_prompts(root, tmp_path):
    words = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    output, arrays = tmp_path / "a.png", tmp_path / "a.npz"
    more = ("--steps", "1,2", "--count", "2", "--batch-size", "4", "--output", output, "--npz", arrays)
    assert main(command(root, *words, *more)) == 0
    assert output.is_file()
    found = np.load(arrays)
    assert found["steps_1"].shape == found["steps_2"].shape == (6, 4, 4, 6)
    images = (found["images_2"].transpose(0, 2, 3, 1) + 1) / 2 * 255
    assert same_pictures(images, expected(root, each=2))


def test_a_flat_folder_with_a_size_a_negative_prompt_and_a_seed(root, tmp_path):
    words = ("--size", "12x16", "--guidance", "2", "--negative-prompt", "blurred", "--count", "2", "--seed", "5")
    assert main(filling(root, tmp_path / "out", *words, "--batch-size", "4")) == 0
    found = read(*sorted((tmp_path / "out").glob("*.png")))
    wanted = {"each": 2, "size": (6, 8), "guidance": 2.0, "seed": 5}
    assert same_pictures(found, expected(root, negative="blurred", **wanted))
    assert not same_pictures(found, expected(root, **wanted))


def test_a_stopped_folder_is_filled_up(root, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    assert main(filling(root, output)) == 0
    whole = {path.name: path.read_bytes() for path in output.iterdir()}
    (output / "00001.png").unlink()
    before = (output / "00000.png").stat().st_mtime_ns
    encoded, original = [], prompts.PromptRequest.captions

    def watch(self, numbers, **options):
        encoded.append(list(numbers))
        return original(self, numbers, **options)

    monkeypatch.setattr(prompts.PromptRequest, "captions", watch)
    assert main(filling(root, output)) == 0
    assert encoded == [[1]]
    assert (output / "00000.png").stat().st_mtime_ns == before
    assert same_pictures(read(output / "00001.png"), expected(root)[1:2])
    assert set(whole) == {path.name for path in output.iterdir()}
    assert main(filling(root, output, "--seed", "1")) == 2
    assert "with others of seed: name another folder, or replace its samples by --force" in capsys.readouterr().err
    assert main(filling(root, output, "--seed", "1", "--force")) == 0
    assert same_pictures(read(*sorted(output.glob("*.png"))), expected(root, seed=1))


def test_two_processes_share_the_prompts(root, tmp_path):
    words = filling(root, tmp_path / "two", "--count", "2")
    run_ranks(main, (words,), 2, tmp_path)
    assert same_pictures(read(*sorted((tmp_path / "two").glob("*.png"))), expected(root, each=2))


def test_benchmarks_get_their_folders(root, tmp_path):
    metadata = tmp_path / "evaluation_metadata.jsonl"
    lines = [json.dumps({"tag": "single_object", "prompt": prompt}) for prompt in PROMPTS]
    metadata.write_text("\n".join(lines))
    words = ("--steps", "2", "--output", tmp_path / "geneval", "--layout", "geneval", "--prompts", metadata)
    assert main(command(root, *words)) == 0
    assert (tmp_path / "geneval/00002/metadata.jsonl").read_text() == lines[2] + "\n"
    found = read(*(tmp_path / f"geneval/00002/samples/000{number}.png" for number in range(4)))
    wanted = expected(root, each=4)[8:]
    assert same_pictures(found, wanted)
    dense = tmp_path / "dense"
    dense.mkdir()
    for number, prompt in enumerate(PROMPTS):
        (dense / f"p{number}.txt").write_text(prompt)
    words = ("--steps", "2", "--layout", "dpg", "--prompts", dense, "--output", tmp_path / "dpg", "--size", "8x8")
    assert main(command(root, *words)) == 0
    assert {path.name for path in (tmp_path / "dpg").iterdir()} == {"p0.png", "p1.png", "p2.png"}
    assert Image.open(tmp_path / "dpg/p1.png").size == (16, 16)


def test_a_pipeline_that_has_moved(root, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(root / "run", moved / "run")
    (root / "sana/vae").rename(root / "vae")
    try:
        assert main(filling(root, tmp_path / "out")) == 2
        assert "--pipeline says where the pipeline of the data is now" in capsys.readouterr().err
    finally:
        (root / "vae").rename(root / "sana/vae")
    shutil.copytree(root / "sana", moved / "sana")
    assert main(filling(root, tmp_path / "out", "--pipeline", moved / "sana")) == 0


def test_text_encoders_are_freed_before_the_network_is_loaded(root, tmp_path, monkeypatch):
    loaded, alive = [], []
    original = TextPipeline.from_pretrained.__func__

    def keep_track(cls, *arguments, parts, **options):
        pipeline = original(cls, *arguments, parts=parts, **options)
        if "text" in parts:
            loaded.append(weakref.ref(pipeline.pipeline.text_encoder))
        return pipeline

    def load(options):
        alive.extend(reference() is not None for reference in loaded)
        return load_for_command(options)

    load_for_command = runs.load
    monkeypatch.setattr(TextPipeline, "from_pretrained", classmethod(keep_track))
    monkeypatch.setattr(runs, "load", load)
    assert main(filling(root, tmp_path / "out")) == 0
    assert alive == [False]


def test_the_command_knows_the_layouts():
    assert prompts.LAYOUTS == layouts.LAYOUTS


def test_a_long_prompt_is_cut_with_a_warning(root, tmp_path, capsys):
    assert main(command(root, "--prompt", "long " * 20, "--steps", "1", "--output", tmp_path / "a.png")) == 0
    assert f"cut to the {LENGTH} tokens that the text encoders take: 1, the first 'long long" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", " "], "--prompt must be a text, got a blank one"),
        (["--prompt", "a", "--prompts", "{root}/prompts.txt"], "--prompts must be left out with --prompt"),
        (["--prompts", "{root}/nowhere"], "no file or folder of prompts"),
        (["--prompt", "a", "--classes", "1"], "--classes must be left out with prompts"),
        (["--size", "8x8"], "--size must be left out without --prompt or --prompts"),
        (["--layout", "flat"], "--layout must be left out without --prompt or --prompts"),
        (["--prompt", "a", "--negative-prompt", "b"], "--negative-prompt must be left out without guidance"),
        (["--prompt", "a", "--size", "9x8"], "--size must be of multiples of 2 pixels"),
        (["--prompt", "a", "--condition-encoder", "a:b"], "--condition-encoder must be left out"),
        (["--prompt", "a", "--layout", "flat"], "--steps must be one number with --layout, got 1,2,4"),
        (["--prompt", "a", "--layout", "flat", "--steps", "1"], "--output must be a folder with --layout"),
        (["--prompt", "a", "--layout", "geneval", "--steps", "1", "--output", "{root}/o"], "GenEval's metadata"),
        (["--prompt", "a", "--layout", "dpg", "--steps", "1", "--output", "{root}/o"], "--size must be a square"),
        (["--prompt", "a", "--layout", "flat", "--npz", "a.npz", "--steps", "1"], "--npz must be left out"),
    ],
)
def test_errors_come_before_any_work(root, monkeypatch, capsys, words, message):
    def never(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(prompts.PromptRequest, "captions", never)
    assert main(command(root, *(word.format(root=root) for word in words))) == 2
    assert message in capsys.readouterr().err
    assert not (root / "o").exists()


def test_functions_that_a_run_names_are_imported_only_if_the_user_says_so(tmp_path, monkeypatch, capsys):
    """And guidance is refused where the network has not been trained for it."""
    run = prompt_run(tmp_path, encoder="an_encoder:encode", label_dropout=0.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "an_encoder.py").write_text(
        "from pathlib import Path\n"
        "from rcgm.networks.pipelines import TextPipeline\n"
        "Path('imported').touch()\n"
        "def encode(texts):\n"
        f"    pipeline = TextPipeline.from_pretrained('sana', 'sana', parts=('text',), length={LENGTH})\n"
        "    return pipeline.encode_prompts(texts)\n"
    )
    words = ["sample", str(run), "--device", "cpu", "--prompt", "a", "--steps", "1"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "is imported only if you say so, by --condition-encoder an_encoder:encode" in error
    assert not (tmp_path / "imported").exists()
    assert main([*words, "--condition-encoder", "an_encoder:encode"]) == 0
    assert (tmp_path / "imported").exists()
    monkeypatch.setattr(guidance, "NETWORKS", {})  # as for a network that was not published
    assert main([*words, "--condition-encoder", "an_encoder:encode", "--guidance", "2"]) == 2
    assert "guidance must be 1 for a network that is trained with objective.label_dropout 0" in capsys.readouterr().err
