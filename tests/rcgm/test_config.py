from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image

from rcgm.config import (
    ConfigError,
    apply_overrides,
    build_dataset_from,
    build_model_from,
    build_objective_from,
    config_to_yaml,
    fit_to_data,
    load_config,
    parse_config,
)
from rcgm.config.components import bind_arguments, parameters_of
from rcgm.derivatives import Central, OneSided
from rcgm.engine.conditions import moved
from rcgm.networks import NETWORKS
from rcgm.objectives import RCGM, FlowMatching
from rcgm.transports import Linear
from tests.support.configurations import MINIMAL, parse
from tests.support.latent_files import write_shards
from tests.support.tiny_text import text_words

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_of_the_project_builds(path, tmp_path):
    config = load_config(path)
    if config.data.name == "latents":  # which the encode command makes first
        latents = write_shards(tmp_path, make=lambda index, flipped: torch.randn(8, 4, 4))
        config = load_config(path, [f"data.path={latents}", "data.moments=log_variance"])
    if config.data.name == "image_folder":  # the user's own images
        for label in "ab":
            (tmp_path / label).mkdir()
            Image.new("RGB", (40, 40)).save(tmp_path / label / "0.png")
        config = load_config(path, [f"data.root={tmp_path}"])
    if config.data.name == "encoded_pairs":
        config = load_config(path, text_words(config, tmp_path))
    dataset = build_dataset_from(config)
    config = fit_to_data(config, dataset.info)
    build_objective_from(config)
    # Shapes alone: at full size, numbers take seconds and memory. Published networks are tiny here.
    device = torch.device("cpu" if config.model.name in NETWORKS else "meta")
    x = torch.stack([dataset[index][0] for index in range(2)]).to(device)
    cond = None if dataset.info.num_classes is None else torch.zeros(2, dtype=torch.int64, device=device)
    if dataset.info.text is not None:
        cond = moved(dataset.conditions(torch.arange(2)), device)
    with device:
        assert build_model_from(config)(x, torch.ones(2), torch.zeros(2), cond).shape == x.shape


def test_overrides_win_and_are_typed():
    config = parse("optimizer.lr=1e-3", "objective.order=1", "sample.steps=[1,8]", "ema.cast=bfloat16", "compile=true")
    assert config.optimizer.lr == 1e-3
    assert build_objective_from(config) == RCGM(order=1)
    assert config.sample.steps == (1, 8)
    assert config.ema.cast == "bfloat16"
    assert config.compile is True


def test_overrides_leave_the_original_alone():
    apply_overrides(MINIMAL, ["objective.order=7", "ema.decay=0.5"])
    assert MINIMAL["objective"] == {"name": "rcgm"}
    assert "ema" not in MINIMAL


def test_an_override_may_replace_a_section():
    config = parse("objective={name: flow_matching, label_dropout: 0.1}")
    assert build_objective_from(config) == FlowMatching(label_dropout=0.1)


def test_nested_dataclasses_are_built_over_their_defaults():
    rcgm = build_objective_from(
        parse("objective.times={distribution: logit_normal, a: -0.4}", "objective.times.equal=1")
    )
    assert (rcgm.times.distribution, rcgm.times.a, rcgm.times.b, rcgm.times.equal) == ("logit_normal", -0.4, 1.0, 1.0)
    guided = build_objective_from(parse("objective.guidance.scale=1.5"))
    assert guided.guidance.scale == 1.5
    assert guided.guidance.t_max == 1.0
    # the times of flow matching have r = t by default, which setting another field must not undo
    matching = build_objective_from(parse("objective={name: flow_matching, times: {distribution: beta, a: 2.0}}"))
    assert (matching.times.interval, matching.times.a) == ("equal", 2.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimzer.lr=1", r"unknown key 'optimzer' \(did you mean 'optimizer'\?"),
        ("optimizer.weight_decy=1", r"unknown key 'optimizer.weight_decy' \(did you mean 'optimizer.weight_decay'\?"),
        ("optimizer.qqqq=1", r"unknown key 'optimizer.qqqq' \(valid: betas, clip_grad_norm"),
        ("objective.ordr=1", r"unknown key 'objective.ordr' \(did you mean 'objective.order'\?"),
        ("objective.times.eqal=1", r"unknown key 'objective.times.eqal' \(did you mean 'objective.times.equal'\?"),
        ("objective.guidance.scal=1", r"'objective.guidance.scal' \(did you mean 'objective.guidance.scale'\?"),
        ("model.wdth=1", r"unknown key 'model.wdth' \(did you mean 'model.width'\?"),
        ("data.noize=1", r"unknown key 'data.noize' \(did you mean 'data.noise'\?"),
        ("data.name=two_moon", r"data.name: unknown name 'two_moon' \(did you mean 'two_moons'\?"),
        ("model.name=dti", r"model.name: unknown name 'dti' \(did you mean 'dit'\?"),
        ("objective.name=rgcm", r"objective.name: unknown name 'rgcm' \(did you mean 'rcgm'\?"),
        ("objective.name=flow_matching objective.order=2", r"unknown key 'objective.order'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(override, message):
    with pytest.raises(ConfigError, match=message):
        parse(*override.split())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=abc", "steps: .*got 'abc'"),
        ("steps=0", "steps: .*greater than 0; got 0"),
        ("optimizer.betas=[0.9, 1.0]", r"optimizer.betas.1: .*less than 1"),
        ("optimizer.name=sgd", "optimizer.name: .*'adamw' or 'radam'.*got 'sgd'"),
        ("optimizer.schedule=step", "optimizer.schedule: .*'linear' or 'cosine'.*got 'step'"),
        ("optimizer.decay_steps=5", "optimizer: decay_steps and final_lr must be left out with the schedule constant"),
        ("ema.decay=1", "ema.decay"),
        ("ema={decay: 0, cast: float16}", "ema: cast must be left out with decay 0"),
        ("ema.target_decay=1", "ema.target_decay"),
        ("ema={target_decay: 0, cast: float16}", "ema: cast must be left out with decay 0"),
        ("accumulate=3", "batch_size must be a multiple of accumulate, got 8 and 3"),
        ("precision=float16", "precision"),
        ("device=tpu", "device"),
        ("sample.steps=[]", "sample.steps"),
        ("optimizer.lr=.nan", "optimizer.lr"),
        ("objective.order=two", "objective.order: .*got 'two'"),
        ("objective.order=99", "objective: order must be at most 30, got 99"),
        ("objective.times=3", "objective.times: must be a mapping with any of a, b, .*got 3"),
        ("objective.times.interval=up", "objective.times: interval must be one of"),
        ("objective.guidance={t_min: 0.1}", "objective.guidance.scale: missing, and it has no default"),
        ("model.generator=3", "unknown key 'model.generator'"),
        ("data=null", "data"),
        ("steps", "override 'steps' must have the form section.key=value"),
        ("=3", "must have the form"),
        ("a..b=3", "must have the form"),
        ("steps.more=3", "'steps' is 10, not a section"),
        ("sample.steps=[1", "override 'sample.steps=\\[1': line 1"),
    ],
)
def test_wrong_values_are_refused_with_their_path(override, message):
    with pytest.raises(ConfigError, match=message):
        parse(override)


def test_all_complaints_come_at_once():
    with pytest.raises(ConfigError) as caught:
        parse("objective.ordr=1", "model.wdth=1", "data.noise=x")
    assert all(key in str(caught.value) for key in ("objective.ordr", "model.wdth", "data.noise"))


def test_missing_sections_are_named():
    with pytest.raises(ConfigError, match="model: missing, and it has no default"):
        parse_config({key: value for key, value in MINIMAL.items() if key != "model"})
    with pytest.raises(ConfigError, match=r"model\.name: missing"):
        parse_config({**MINIMAL, "model": {"width": 3}})


def test_resolved_configuration_reads_back_the_same(tmp_path):
    config = parse("objective.guidance.scale=2.0", "objective.metric.name=pseudo_huber", "data.labels=true")
    config = fit_to_data(config, build_dataset_from(config).info)
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    again = load_config(path)
    assert again == config
    assert build_objective_from(again) == build_objective_from(config)


def test_resolved_configuration_holds_every_default():
    config = parse()
    assert config.objective.arguments["order"] == 2
    assert config.objective.arguments["times"]["interval"] == "hierarchical"
    assert config.model.arguments["depth"] > 0
    assert config.data.arguments["noise"] == 0.05


def test_shape_and_classes_come_from_the_data():
    config = parse("data.labels=true")
    config = fit_to_data(config, build_dataset_from(config).info)
    assert config.model.arguments["dim"] == 2
    assert config.model.arguments["num_classes"] == 2
    unconditional = parse("data.labels=true", "model.num_classes=null")
    unconditional = fit_to_data(unconditional, build_dataset_from(unconditional).info)
    assert unconditional.model.arguments["num_classes"] is None


def test_classes_that_the_data_contradict_are_refused():
    digits = ("data={name: digits}", "model={name: dit, preset: nano/2}")
    info = build_dataset_from(parse(*digits)).info
    with pytest.raises(ConfigError, match=r"model\.num_classes must be at least the .* of the data, 10, got 9: leave"):
        fit_to_data(parse(*digits, "model.num_classes=9"), info)
    assert fit_to_data(parse(*digits, "model.num_classes=1000"), info).model.arguments["num_classes"] == 1000
    points = build_dataset_from(parse()).info
    with pytest.raises(ConfigError, match=r"model\.num_classes must be left out for data without classes, got 2"):
        fit_to_data(parse("model.num_classes=2"), points)


def test_presets_are_expanded_and_what_is_said_wins():
    config = parse("data={name: digits}", "model={name: dit, preset: nano/2, depth: 2}")
    assert "preset" not in config.model.arguments
    assert config.model.arguments["hidden_size"] == 16
    assert config.model.arguments["depth"] == 2
    with pytest.raises(ConfigError, match=r"model\.preset must be one of .*, got 'nano/3'"):
        parse("model={name: dit, preset: nano/3}")
    with pytest.raises(ConfigError, match=r"model\.patch_size: missing"):
        parse("model={name: dit, hidden_size: 16, depth: 1, num_heads: 2}")


def test_what_a_constructor_refuses_is_said_with_the_section():
    config = parse("data={name: digits}", "model={name: dit, preset: nano/2, num_heads: 3}")
    config = fit_to_data(config, build_dataset_from(config).info)
    with pytest.raises(ConfigError, match=r"model dit: .*num_heads"):
        build_model_from(config)


def test_a_missing_or_odd_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no configuration file"):
        load_config(tmp_path / "no.yaml")
    odd = tmp_path / "odd.yaml"
    odd.write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="must hold a mapping of sections, got list"):
        load_config(odd)
    odd.write_text("steps: 1\nsteps: 2\n")
    with pytest.raises(ConfigError, match=r"odd\.yaml: line 1, column 1: key 'steps' is given twice"):
        load_config(odd)
    odd.write_text("steps: [1\n")
    with pytest.raises(ConfigError, match="line 2"):
        load_config(odd)


@dataclass(frozen=True)
class Inner:
    scale: float
    name: str = "a"


@dataclass(frozen=True)
class Other:
    width: int = 1


@dataclass(frozen=True)
class Outer:
    inner: Inner | Other | None = None
    sizes: tuple[int, ...] = (1, 2)
    made: Other = field(default_factory=lambda: Other(width=5))
    generator: torch.Generator | None = None


def test_several_nested_dataclasses_are_told_apart_by_their_keys():
    assert bind_arguments(Outer, {"inner": {"scale": 2}}, "x") == {"inner": Inner(2.0)}
    assert bind_arguments(Outer, {"inner": {"width": 3}}, "x") == {"inner": Other(3)}
    assert bind_arguments(Outer, {"inner": None, "sizes": [3, 4]}, "x") == {"inner": None, "sizes": (3, 4)}
    with pytest.raises(ConfigError, match=r"unknown key 'x\.inner\.depth'"):
        bind_arguments(Outer, {"inner": {"depth": 3}}, "x")


def test_parameters_have_real_types_and_defaults_and_no_generators():
    parameters = parameters_of(Outer)
    assert list(parameters) == ["inner", "sizes", "made"]
    assert parameters["made"].default == Other(width=5)
    assert parameters["made"].annotation is Other


def test_members_of_a_family_are_named():
    config = parse("objective.transport=linear", "objective.derivative={name: one_sided, step: 0.01}")
    objective = build_objective_from(config)
    assert objective.transport == Linear()
    assert objective.derivative == OneSided(0.01)
    assert config.objective.arguments["derivative"] == {"name": "one_sided", "step": 0.01}
    # without a name, what is said belongs to the default
    assert build_objective_from(parse("objective.derivative.step=0.02")).derivative == Central(0.02)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.transport=linaer", "did you mean 'linear'"),
        ("objective.derivative=3", r"objective\.derivative: must be one of .*central"),
        ("objective.derivative={name: central, stp: 1}", r"did you mean 'objective\.derivative\.step'"),
        (
            "objective.derivative={name: central, step: 0}",
            r"objective\.derivative: step of a difference must be above 0",
        ),
    ],
)
def test_what_is_no_member_of_a_family_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        parse(override)
