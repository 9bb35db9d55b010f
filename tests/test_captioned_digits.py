"""The captioned digits: captions mean what they say, and the trainings go the whole way."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from benchmarks import environment
from benchmarks.captioned_digits import experiment
from benchmarks.captioned_digits.captions import LENGTH, CaptionEncoder, encode
from benchmarks.captioned_digits.experiment import Experiment, Lengths
from benchmarks.captioned_digits.measures import PER_PROMPT
from benchmarks.captioned_digits.names import GUIDED, MULTI_STEP, NAME
from benchmarks.captioned_digits.pictures import Judge, Painter, to_latents, to_pictures, train_judge
from benchmarks.captioned_digits.runs import ADVERSARIAL, FEW_STEPS
from benchmarks.captioned_digits.scenes import KINDS, NUMERALS, draw_prompt, draw_scene, held_out_prompt, is_held_out
from benchmarks.captioned_digits.tables import kinds_table, measures_table
from rcgm.data import EncodedPairs
from rcgm.evaluation.classifier import ImageClassifier, TrainedClassifier

RED, GREEN = 0, 1


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_are_what_their_captions_say(kind, generator):
    for _ in range(50):
        prompt = draw_prompt(kind, generator)
        scene = draw_scene(prompt, generator, held_out=True)
        assert prompt.kind == kind
        assert prompt.describes(scene)
        assert not prompt.describes((None, None))
        assert prompt.describes(scene[::-1]) == (kind in ("single", "two objects", "colours") or scene == scene[::-1])


def test_two_objects_stand_in_the_order_of_their_caption(generator):
    for _ in range(20):
        prompt = draw_prompt("two objects", generator)
        (left, _), (right, _) = draw_scene(prompt, generator)
        words = prompt.caption.split()
        assert [NUMERALS.index(words[1]), NUMERALS.index(words[4])] == [left, right]


def test_no_scene_of_training_has_a_held_out_combination(generator):
    drawn = [draw_scene(draw_prompt(kind, generator), generator) for kind in KINDS for _ in range(100)]
    scenes = [scene for scene in drawn if scene is not None]
    assert len(scenes) > 450
    assert not any(is_held_out(cell, place) for scene in scenes for place, cell in enumerate(scene))
    assert draw_scene(held_out_prompt(generator), generator) is None
    combinations = [
        is_held_out((digit, colour), place) for digit in range(10) for colour in range(6) for place in (0, 1)
    ]
    assert sum(combinations) == 12


def test_captions_have_states_of_their_own(generator):
    captions = sorted({draw_prompt(kind, generator).caption for kind in KINDS for _ in range(20)})
    encoded = encode(captions)
    assert int(encoded["mask"].sum(1).max()) == LENGTH - 1  # with a token before the words, and room for one more
    distances = torch.cdist(encoded["text"].flatten(1), encoded["text"].flatten(1))
    assert (distances + 10 * torch.eye(len(captions))).min() > 0.5
    again = CaptionEncoder()(captions[:3])
    assert torch.equal(again["text"], encoded["text"][:3])


def test_a_judge_reads_real_pictures(generator):
    judge = train_judge(epochs=1)
    assert judge.accuracy > 0.5  # with all its epochs it is held to 0.97 by the benchmark
    scenes = [((3, RED), None), (None, (7, GREEN))]
    assert judge.features(Painter().pictures(scenes, generator)).shape == (2, 128)


def test_latents_are_normalised_pictures(generator):
    pictures = Painter().pictures(
        [draw_scene(draw_prompt("position", generator), generator) for _ in range(9)], generator
    )
    latents = to_latents(pictures)
    torch.testing.assert_close(to_pictures(latents), pictures)
    assert abs(float(latents.mean())) < 0.5 and 0.5 < float(latents.std()) < 2


ALL = (*FEW_STEPS, *ADVERSARIAL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of an experiment that was stopped after two of its models and went on."""
    root = tmp_path_factory.mktemp("captioned_digits")
    untrained = TrainedClassifier(
        ImageClassifier(torch.Generator().manual_seed(0), 3, 61).eval(), (3, 8, 8), 61, None, 0
    )
    arguments = (root / "runs", Lengths(120, 1, 2, 2), Judge(untrained, 0.0), {"depth": 1, "width": 32})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "RESULTS", root / "results")
        with patch.context() as stopped:
            stopped.setattr(experiment, "USUAL", experiment.USUAL[:3])
            Experiment(*arguments).run(0)
        first = environment.read(NAME)
        again = Experiment(*arguments)
        again.run(0, adversarial=True)
        again.draw(0, root / "samples.png")
        yield SimpleNamespace(root=root, arguments=arguments, first=first, found=environment.read(NAME))


def test_the_trainings_go_the_whole_way(folders):
    dataset = EncodedPairs(folders.root / "runs" / "pairs")
    assert len(dataset) == 120
    assert len(set(dataset.captions(torch.arange(120)))) > 60
    rows = folders.found["rows"]
    assert [row["model"] for row in rows] == [MULTI_STEP, GUIDED, *FEW_STEPS, *ADVERSARIAL]
    assert [list(row["measures"]) for row in rows[:3]] == [["1", "2", "4", "20"]] * 2 + [["1", "2", "4"]]
    for row in rows:
        assert row.get("steps") == (None if row["model"] == GUIDED else 2)
        for measured in row["measures"].values():
            assert 0 <= measured["right"] <= 1 and measured["frechet_distance"] > 0 and measured["spread"] > 0
    assert (folders.root / "samples.png").stat().st_size > 10_000


def test_what_was_stopped_goes_on(folders):
    assert [row["model"] for row in folders.first["rows"]] == [MULTI_STEP, GUIDED, next(iter(FEW_STEPS))]
    assert folders.found["rows"][:3] == folders.first["rows"]  # with their seconds: they were not trained again
    folder, lengths, *others = folders.arguments
    with pytest.raises(ValueError, match=r"must hold rows of .*'few_step': 3.*, got .*'few_step': 2"):
        Experiment(folder, replace(lengths, few_step=3), *others)


def test_tables_of_one_seed_and_of_two(folders, monkeypatch):
    monkeypatch.setattr(environment, "RESULTS", folders.root / "results")
    lines = measures_table().splitlines()
    assert "1 seed, " in lines[-1]
    assert len([line for line in lines if line.startswith("| ")]) == 2 + 1 + 2 * 4 + 3 * len(ALL)
    (twenty,) = [line for line in lines if line.startswith(f"| {GUIDED} | 20 |")]
    assert twenty.endswith("| 1.00 |")
    assert [line.split("|")[1].strip() for line in kinds_table().splitlines()[2:]] == [
        f"{MULTI_STEP}, 20 steps",
        f"{GUIDED}, 20 steps",
        *(f"{model}, 2 steps" for model in ALL),
    ]
    second = [row | {"seed": 1} for row in folders.found["rows"]]
    environment.write(NAME, folders.found | {"rows": folders.found["rows"] + second}, folders.root / "two")
    monkeypatch.setattr(environment, "RESULTS", folders.root / "two")
    assert "2 seeds, " in measures_table() and "1.00 ± 0.00" in measures_table()


def test_real_pictures_measure_as_real(folders, generator):
    examination = Experiment(*folders.arguments).examination
    real = examination.measure(examination.real(held_out=False))
    noise = examination.measure(torch.rand(PER_PROMPT * len(examination.prompts), 3, 8, 16, generator=generator))
    assert 0.5 < real["spread"] < 1.5
    assert abs(real["frechet_distance"]) < noise["frechet_distance"] / 2
    assert len(examination.real(held_out=True)) == PER_PROMPT * len(examination.prompts)
