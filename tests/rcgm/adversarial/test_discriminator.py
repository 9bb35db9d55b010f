"""The discriminator's losses, against a transcription in plain tensors."""

import math

import pytest
import torch
from torch.nn.functional import relu, softplus

from rcgm.adversarial import LOSSES, Discriminator, DiscriminatorSettings, Features, Heads
from rcgm.distributed.shares import Share
from rcgm.transports import Linear, TrigFlow
from tests.support.small_dit import drawn, inputs

BATCH = 6
WIDTH = 16


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(transport=None, **settings) -> tuple[Discriminator, torch.nn.Module]:
    teacher = drawn(torch.float64).requires_grad_(False)
    torch.manual_seed(1)
    heads = Heads([WIDTH, WIDTH], hidden=8).double()
    built = DiscriminatorSettings(**settings)
    return Discriminator(Features(teacher, 2), heads, transport or Linear(), built), teacher


def by_definition(student, teacher, heads, x, cond, settings: DiscriminatorSettings):
    """Losses of all samples under the linear transport, drawn as the discriminator draws."""
    draws = generator()
    z, noise = (torch.randn(x.shape, generator=draws, dtype=x.dtype) for _ in range(2))
    t = torch.tensor(settings.starts)[torch.randint(len(settings.starts), (len(x),), generator=draws)]
    logit = settings.noise_mean + settings.noise_std * torch.randn(len(x), generator=draws)
    s = torch.sigmoid(logit)  # in float32, whose rounding would be seen otherwise
    step = torch.randn(x.shape, generator=draws, dtype=x.dtype)

    def per(times):
        return times.double()[:, None, None, None]

    def logits(sample):
        found = []
        hooks = [block.register_forward_hook(lambda *outputs: found.append(outputs[2])) for block in teacher.blocks]
        teacher(sample, s, s, cond)
        for hook in hooks:
            hook.remove()
        return torch.cat([head(tokens)[..., 0] for head, tokens in zip(heads.heads, found, strict=True)], 1)

    x_t = per(t) * z + per(1 - t) * x
    sample = x_t - per(t) * student(x_t, t, torch.zeros_like(t), cond)
    fake, real = (per(s) * noise + per(1 - s) * one for one in (sample, x))
    of_fake, of_real = logits(fake), logits(real)
    if settings.loss == "hinge":
        per_generator = -of_fake.mean(1)
        per_discriminator = (relu(1 + of_fake) + relu(1 - of_real)).mean(1)
    else:
        per_generator = softplus(of_real - of_fake).mean(1)
        per_discriminator = softplus(of_fake - of_real).mean(1)
    if settings.penalty:
        for point, value in ((fake, of_fake), (real, of_real)):
            moved = logits(point.detach() + settings.penalty_step * step)
            slope = (moved - value) / settings.penalty_step
            per_discriminator = per_discriminator + settings.penalty * slope.square().mean(1)
    return per_generator, per_discriminator, (of_real.mean(1) > of_fake.mean(1)).double()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("starts", [(1.0,), (1.0, 0.25)])
def test_losses_and_gradients(loss, penalty, starts):
    discriminator, teacher = build(loss=loss, penalty=penalty, starts=starts, weight=0.7, fraction=0.5, noise_mean=0.4)
    student = drawn(torch.float64, std=0.2)
    x, _, _, cond = inputs(torch.float64, BATCH)
    losses = discriminator.losses(student, x, cond, Share(BATCH), generator())
    heads, settings = discriminator.heads, discriminator.settings
    per_generator, per_discriminator, told = (
        values[: BATCH // 2].mean() for values in by_definition(student, teacher, heads, x, cond, settings)
    )
    close = {"rtol": 1e-9, "atol": 1e-12}  # the slope divides rounding by its step, 0.01, twice
    torch.testing.assert_close(losses.generator, 0.7 * per_generator, **close)
    torch.testing.assert_close(losses.discriminator, per_discriminator, **close)
    assert float(losses.told_apart) == pytest.approx(float(told))

    mine, theirs = list(student.parameters()), list(heads.parameters())
    expected = torch.autograd.grad(0.7 * per_generator, mine, retain_graph=True)
    expected_heads = torch.autograd.grad(per_discriminator, theirs)
    losses.generator.backward()
    assert all(parameter.grad is None for parameter in theirs)
    losses.discriminator.backward()
    for got, wanted in zip((*mine, *theirs), (*expected, *expected_heads), strict=True):
        torch.testing.assert_close(got.grad, wanted, rtol=1e-8, atol=1e-11)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_other_transports():
    seen = []

    def features(point, s, cond):
        seen.append(point)
        assert (s == 0.5).all()
        return [point.flatten(2).mT]

    settings = DiscriminatorSettings(noise_std=0.0)
    discriminator = Discriminator(features, Heads([3], hidden=8).double(), TrigFlow(), settings)
    x, _, _, cond = inputs(torch.float64, BATCH)
    discriminator.losses(lambda x, t, r, cond: x, x, cond, Share(BATCH), generator())
    draws, rows, half = generator(), BATCH // 2, math.sqrt(0.5)
    z, noise = (torch.randn(x.shape, generator=draws, dtype=x.dtype)[:rows] for _ in range(2))
    fake, real = seen
    # F = x_t = z at t = 1: the step to 0 is cos(pi/2) z - sin(pi/2) F = -z
    torch.testing.assert_close(fake, half * noise - half * z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(real, half * noise + half * x[:rows], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("micro_batches", [1, 2, 5])
@pytest.mark.parametrize("processes", [1, 2])
def test_shares_add_up_to_the_whole(micro_batches, processes):
    """Means over processes of sums over micro-batches: what a training step makes of them."""
    rows = 10
    discriminator, _ = build(loss="relativistic", fraction=0.3, penalty=0.1, starts=(1.0, 0.5))
    student = drawn(torch.float64, std=0.2)
    x, _, _, cond = inputs(torch.float64, rows)
    whole = discriminator.losses(student, x, cond, Share(rows), generator())
    sums, forwards = torch.zeros(3, dtype=torch.float64), 0
    for rank in range(processes):
        for number in range(micro_batches):
            share = Share(rows, rank, processes, number, micro_batches)
            losses = discriminator.losses(student, share.of(x), share.of(cond), share, generator())
            if losses is None:
                continue
            forwards += 1
            parts = (losses.generator, losses.discriminator, losses.told_apart)
            sums += torch.stack([part.detach().double() for part in parts]) / processes
    expected = torch.stack(
        [part.detach().double() for part in (whole.generator, whole.discriminator, whole.told_apart)]
    )
    torch.testing.assert_close(sums, expected, rtol=1e-9, atol=1e-12)
    assert forwards == processes * min(micro_batches, 3)  # every process takes part where one does


def test_a_sample_that_is_not_finite_among_those_left_out_changes_nothing():
    discriminator, _ = build(fraction=0.5)
    student = drawn(torch.float64, std=0.2)
    x, _, _, cond = inputs(torch.float64, BATCH)
    expected = discriminator.losses(student, x, cond, Share(BATCH), generator())
    spoiled = x.clone()
    spoiled[-1] = math.nan
    got = discriminator.losses(student, spoiled, cond, Share(BATCH), generator())
    assert torch.equal(expected.generator, got.generator) and torch.equal(expected.discriminator, got.discriminator)


def test_a_row_that_only_takes_part_changes_nothing():
    """Rank 1 has none of the two rows that are judged in the second micro-batch of 5, and evaluates one."""
    discriminator, _ = build(fraction=0.2)
    student = drawn(torch.float64, std=0.2)
    x, _, _, cond = inputs(torch.float64, 10)
    share = Share(10, 1, 2, 1, 5)
    assert share.before(2) == 0 < share.leading(2)
    x[share.first] = math.nan
    losses = discriminator.losses(student, share.of(x), share.of(cond), share, generator())
    (losses.generator + losses.discriminator).backward()
    assert losses.generator == losses.discriminator == 0
    for parameter in (*student.parameters(), *discriminator.heads.parameters()):
        assert (parameter.grad == 0).all()


def test_a_student_learns_the_mean_of_the_data_from_the_discriminator_alone():
    torch.manual_seed(0)
    mean = torch.tensor([1.0, -0.5])

    frequencies, phases = torch.randn(2, 16), 6.3 * torch.rand(16)
    shift = torch.nn.Parameter(torch.zeros(2))
    heads = Heads([16], hidden=16)
    settings = DiscriminatorSettings(weight=1.0, loss="relativistic", fraction=1.0, penalty=0.05, penalty_step=0.1)
    discriminator = Discriminator(
        lambda x, t, cond: [torch.sin(x @ frequencies + phases)[:, None]], heads, Linear(), settings
    )
    optimizers = [torch.optim.Adam([shift], 2e-2), torch.optim.Adam(heads.parameters(), 2e-2, betas=(0.0, 0.99))]
    for step in range(300):
        x = mean + 0.5 * torch.randn(128, 2)
        losses = discriminator.losses(
            lambda z, t, r, cond: 0.5 * z - shift, x, None, Share(128), generator(step)  # samples shift + z / 2
        )  # fmt: skip
        (losses.generator + losses.discriminator).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert (shift.detach() - mean).abs().max() < 0.25  # from 1.0


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"weight": -1.0}, "weight must be"),
        ({"weight": math.nan}, "weight must be"),
        ({"loss": "wasserstein"}, "loss must be one of hinge, relativistic"),
        ({"fraction": 0.0}, "fraction must be above 0 and at most 1, got 0.0"),
        ({"starts": ()}, r"starts must be times above 0 and at most 1, got \(\)"),
        ({"starts": (0.0, 1.0)}, "starts must be times"),
        ({"noise_mean": math.inf}, "noise_mean must be a finite number"),
        ({"noise_std": -0.1}, "noise_std must be"),
        ({"penalty": math.inf}, "penalty must be"),
        ({"penalty_step": 0.0}, "penalty_step must be"),
    ],
)
def test_values_out_of_range_are_refused(settings, error):
    with pytest.raises((TypeError, ValueError), match=error):
        DiscriminatorSettings(**settings)
