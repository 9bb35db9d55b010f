import pytest
import torch

from rcgm.engine.combination import term
from rcgm.objectives import RCGM, EnhancedTarget, FlowMatching, MixedTarget, Point, TeacherEnhancedTarget
from rcgm.objectives.times import Times

BATCH, NULL = 9, 4
T = torch.tensor([0.0, 0.2999, 0.3, 0.31, 0.5, 0.75, 0.7501, 0.9, 1.0], dtype=torch.float64)
INSIDE = (T >= 0.3) & (T <= 0.75)


def point(dropped=None, shape=(BATCH, 2, 2)):
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    column = T.reshape(-1, *[1] * (len(shape) - 1))
    velocity = z - x
    return Point(x, z, column * z + (1 - column) * x, velocity, velocity, T, T, 0, dropped)


def answer(guidance, at, with_cond, with_null):
    """What it asks, and what it makes of the answers."""
    guided = guidance.regression_target(at, term(at.regression_target), [with_cond, with_null])
    return guidance.queries(at), guided.value()


def test_asks_for_both_instantaneous_velocities():
    at = point()
    wave, _ = answer(EnhancedTarget(1.0), at, at.x, at.z)
    assert [query.null for query in wave] == [False, True]
    for query in wave:
        assert (query.network, query.start) == ("target", 0)
        assert query.x is at.x_t
        assert query.t is at.t
        assert query.r is at.t


@pytest.mark.parametrize("shape", [(BATCH, 3), (BATCH, 2, 2)])
def test_replaces_the_velocity_inside_the_range_alone(shape):
    at = point(shape=shape)
    with_cond, with_null = torch.full_like(at.x, 5.0), torch.full_like(at.x, 2.0)
    _, velocity = answer(EnhancedTarget(0.5, 0.3, 0.75), at, with_cond, with_null)
    assert INSIDE.sum() == 4
    torch.testing.assert_close(velocity[INSIDE], at.velocity[INSIDE] + 1.5)
    assert torch.equal(velocity[~INSIDE], at.velocity[~INSIDE])


def test_dropped_samples_keep_their_velocity():
    dropped = torch.tensor([False, True, False, True, False, True, False, True, False])
    at = point(dropped)
    _, velocity = answer(EnhancedTarget(0.5, 0.3, 0.75), at, torch.full_like(at.x, 5.0), torch.full_like(at.x, 2.0))
    changed = (velocity != at.velocity).flatten(1).all(1)
    assert torch.equal(changed, INSIDE & ~dropped)


def test_samples_outside_are_safe_from_what_the_network_says_there():
    at = point()
    _, velocity = answer(EnhancedTarget(0.5, 0.3, 0.75), at, torch.full_like(at.x, torch.nan), at.x)
    assert torch.equal(velocity[~INSIDE], at.velocity[~INSIDE])


def test_whole_range_by_default():
    at = point()
    _, velocity = answer(EnhancedTarget(2.0), at, torch.full_like(at.x, 1.0), torch.zeros_like(at.x))
    torch.testing.assert_close(velocity, at.velocity + 2)


class Labelled:
    """Says its label everywhere, and remembers the labels it saw."""

    def __init__(self):
        self.labels = []

    def __call__(self, x, t, r, cond):
        self.labels.append(cond)
        value = cond.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)).expand_as(x).clone()
        return value.requires_grad_(torch.is_grad_enabled())


def call(objective, labels, student, target=None, seed=0, **kwargs):
    at = point()
    return objective(
        student,
        at.x,
        labels,
        target=target or Labelled(),
        null_cond=torch.tensor([NULL]),
        noise=at.z,
        times=Times(T, T),
        generator=torch.Generator().manual_seed(seed),
        **kwargs,
    )


def test_the_guided_velocity_is_what_the_student_regresses_on():
    labels = torch.arange(BATCH) % 3
    guided = call(RCGM(order=0, clip=None, guidance=EnhancedTarget(2.0, 0.3, 0.75)), labels, Labelled())
    at = point()
    shift = torch.where(INSIDE, 2.0 * (labels - NULL), 0.0)[:, None, None]
    residual = labels[:, None, None] - (at.velocity + shift)
    torch.testing.assert_close(guided.loss, residual.square().mean())


def test_dropped_samples_are_trained_unconditionally_and_unguided():
    labels = torch.arange(BATCH) % 3
    student = Labelled()
    out = call(RCGM(order=0, clip=None, guidance=EnhancedTarget(2.0), label_dropout=0.5), labels, student)
    (seen,) = student.labels
    dropped = seen == NULL
    assert 0 < dropped.sum() < BATCH
    assert torch.equal(seen[~dropped], labels[~dropped])
    at = point()
    shift = torch.where(dropped, 0.0, 2.0 * (labels - NULL))[:, None, None]
    residual = seen[:, None, None] - (at.velocity + shift)
    torch.testing.assert_close(out.loss, residual.square().mean())


def test_noise_of_the_target_does_not_guide_dropped_samples():
    """Where the condition is the null one the two estimates differ by noise alone, which is no guidance."""
    labels = torch.arange(BATCH) % 3
    student, g = Labelled(), torch.Generator().manual_seed(1)

    def noisy(x, t, r, cond):
        return 10 * torch.randn(x.shape, generator=g, dtype=x.dtype)

    out = call(RCGM(order=0, clip=None, guidance=EnhancedTarget(2.0), label_dropout=1.0), labels, student, noisy)
    assert bool((student.labels[0] == NULL).all())
    torch.testing.assert_close(out.loss, (NULL - point().velocity).square().mean())


@pytest.mark.parametrize("objective", [FlowMatching, RCGM])
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_frequency_of_label_dropout(objective, probability):
    many = 10_000
    student = Labelled()
    x = torch.zeros(many, 1)
    out = objective(label_dropout=probability)(
        student,
        x,
        torch.zeros(many, dtype=torch.long),
        target=Labelled(),
        null_cond=torch.tensor([NULL]),
        generator=torch.Generator().manual_seed(0),
    )
    share = (student.labels[-1] == NULL).double().mean().item()
    assert abs(share - probability) <= 4 * (probability * (1 - probability) / many) ** 0.5
    # Whether a sample is dropped says nothing about its time.
    if 0 < probability < 1:
        dropped = student.labels[-1] == NULL
        # standard deviations of the two means: at most 12^(-1/2)/sqrt(400) each, of which 0.05 are more than 2
        assert abs(out.t[dropped].mean() - out.t[~dropped].mean()) < 0.05


def test_target_sees_the_labels_that_the_student_sees():
    target, student = Labelled(), Labelled()
    labels = torch.arange(BATCH) % 3
    times = Times(T, T / 2)
    at = point()
    RCGM(order=1, label_dropout=0.5)(
        student,
        at.x,
        labels,
        target=target,
        null_cond=torch.tensor([NULL]),
        noise=at.z,
        times=times,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(target.labels[0], student.labels[0])
    assert (student.labels[0] == NULL).any()


def test_dropout_without_a_condition_changes_nothing(random_network):
    student = random_network(1)
    x = point(shape=(BATCH, 3)).x
    plain, dropping = (
        FlowMatching(label_dropout=p)(student, x, generator=torch.Generator().manual_seed(0)).loss for p in (0.0, 0.5)
    )
    assert torch.equal(plain, dropping)


@pytest.mark.parametrize(
    "objective",
    [RCGM(guidance=EnhancedTarget(1.0)), RCGM(label_dropout=0.1), FlowMatching(label_dropout=0.1)],
    ids=["guidance", "dropout", "flow matching dropout"],
)
def test_needs_a_null_condition(objective):
    assert objective.needs_null_condition()
    student = Labelled()
    with pytest.raises(ValueError, match="null_cond must be given with label_dropout, dropped or guidance"):
        objective(student, torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    assert not student.labels


def test_needs_no_null_condition_otherwise():
    assert not RCGM().needs_null_condition()
    assert not FlowMatching().needs_null_condition()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1,), "guidance scale must be a finite number >= 0, got -0.1"),
        ((float("nan"),), "guidance scale must be a finite number >= 0, got nan"),
        ((float("inf"),), "guidance scale must be a finite number >= 0, got inf"),
        ((1.0, 0.5, 0.4), "guidance t_min and t_max must have 0 <= t_min <= t_max <= 1, got 0.5 and 0.4"),
        ((1.0, -0.1, 0.4), "guidance t_min and t_max must have 0 <= t_min <= t_max <= 1, got -0.1 and 0.4"),
        ((1.0, 0.1, 1.4), "guidance t_min and t_max must have 0 <= t_min <= t_max <= 1, got 0.1 and 1.4"),
    ],
)
def test_bad_guidance(arguments, message):
    with pytest.raises(ValueError, match=message):
        EnhancedTarget(*arguments)


def test_guidance_by_a_teacher_alone_needs_no_null_condition():
    labels, x = torch.arange(BATCH) % 4, torch.randn(BATCH, 3)
    network = Labelled()
    objective = FlowMatching(guidance=TeacherEnhancedTarget(0.5))
    assert not objective.needs_null_condition()
    assert objective(network, x, labels, teacher=network, generator=torch.Generator()).loss.isfinite()
    with pytest.raises(ValueError, match="null_cond must be given"):
        FlowMatching(guidance=EnhancedTarget(0.5))(network, x, labels)


@pytest.mark.parametrize("guide_dropped", [False, True])
def test_dropped_samples_may_be_guided_towards_the_condition_that_they_had(guide_dropped):
    """TiM's authors guide all samples; the prediction itself is made with the null condition."""
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(BATCH, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    labels, dropped = torch.arange(BATCH), torch.arange(BATCH) % 3 == 1

    def says_its_label(x, t, r, cond):
        return cond[:, None].to(x).expand_as(x)

    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    out = FlowMatching(guidance=MixedTarget(0.75, 0.3, 0.75, guide_dropped=guide_dropped))(
        lambda *point: weight * says_its_label(*point), x, labels, target=says_its_label, dropped=dropped,
        null_cond=torch.tensor([100]), noise=z, times=(T, T),
    )  # fmt: skip
    guided = INSIDE if guide_dropped else INSIDE & ~dropped
    expected = z - x + (guided * 0.75 * (labels - 100))[:, None]
    seen = torch.where(dropped, 100, labels)[:, None]
    assert torch.equal(out.prediction, seen.to(x).expand_as(x))
    torch.testing.assert_close(out.loss.detach(), (seen - expected).square().mean())
