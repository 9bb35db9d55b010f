"""A small classifier of the handwritten digits, which judges generated ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from rcgm.data.digits import Digits

IMAGE_SHAPE = (1, 8, 8)
CLASSES = 10
TEST_SHARE = 0.2
BATCH = 64
PEAK_LEARNING_RATE = 1e-2
FEATURES = 64


class DigitClassifier(nn.Module):
    """Three convolutions and two linear layers for images float32 `[B, 1, 8, 8]` in [-1, 1].

    Args:
        generator: draws the weights.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        # skip_init leaves torch's global generator alone; the weights are drawn below.
        self.convolutions = nn.Sequential(
            nn.utils.skip_init(nn.Conv2d, 1, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.utils.skip_init(nn.Conv2d, 32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.utils.skip_init(nn.Conv2d, 32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.hidden = nn.utils.skip_init(nn.Linear, 64 * 4 * 4, FEATURES)
        self.head = nn.utils.skip_init(nn.Linear, FEATURES, CLASSES)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits float32 `[B, 10]` and features float32 `[B, 64]`, the penultimate layer after its ReLU."""
        features = functional.relu(self.hidden(self.convolutions(images)))
        return self.head(features), features


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier and what it is worth.

    Args:
        model: in evaluation mode, on the CPU.
        held_out: int64 `[360 or so]`, indices into `rcgm.data.Digits` of those it was not trained on.
        accuracy: share of the held-out digits that it classifies correctly; generated digits cannot be judged finer.
    """

    model: DigitClassifier
    held_out: torch.Tensor
    accuracy: float

    @torch.no_grad()
    def classify(self, images: torch.Tensor, chunk: int = 1024) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes int64 `[N]` and features float32 `[N, 64]` of images floating `[N, 1, 8, 8]` in [-1, 1].

        Raises:
            TypeError, ValueError: images is no floating tensor, of another shape, empty, or not finite.
        """
        check_digit_images("images", images)
        outputs = [self.model(part) for part in images.cpu().float().split(chunk)]
        logits = torch.cat([logits for logits, _ in outputs])
        return logits.argmax(dim=1), torch.cat([features for _, features in outputs])


def class_accuracy(classifier: TrainedClassifier, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images that the classifier takes for the class they were asked for.

    Args:
        classifier: from `train_digit_classifier`.
        images: floating `[N, 1, 8, 8]` in [-1, 1].
        labels: int64 `[N]` in 0 to 9.

    Raises:
        TypeError, ValueError: images or labels are not as above.
    """
    check_digit_images("images", images)
    check_digit_labels(labels, len(images))
    predictions, _ = classifier.classify(images)
    return float((predictions == labels.cpu()).double().mean())


def train_digit_classifier(seed: int = 0, epochs: int = 20) -> TrainedClassifier:
    """Train the classifier on four fifths of each class of the digits, and test it on the rest.

    The training digits are shifted, turned, scaled and slanted a little. Everything random, the split included, is
    drawn from `seed`, so on one machine a seed gives one classifier. It takes a few seconds on one CPU core.

    Raises:
        ValueError: epochs below 1.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; it needs at least 1")
    generator = torch.Generator().manual_seed(seed)
    digits = Digits()
    train, test = _stratified_split(digits.labels, generator)
    model = DigitClassifier(generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-2)
    steps = epochs * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = train[torch.randperm(len(train), generator=generator)]
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            logits, _ = model(_distort(digits.samples[batch], generator))
            loss = functional.cross_entropy(logits, digits.labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval().requires_grad_(False)
    untested = TrainedClassifier(model, test, math.nan)
    return replace(untested, accuracy=class_accuracy(untested, digits.samples[test], digits.labels[test]))


def check_digit_images(name: str, images: torch.Tensor, minimum: int = 1) -> None:
    """Raise TypeError or ValueError unless images is floating `[N, 1, 8, 8]`, N of at least minimum, and finite."""
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise TypeError(f"{name} is {got}; it needs a floating torch.Tensor")
    if images.ndim != 4 or tuple(images.shape[1:]) != IMAGE_SHAPE or len(images) < minimum:
        raise ValueError(f"{name} has shape {tuple(images.shape)}; it needs (N, 1, 8, 8) with N of at least {minimum}")
    if not torch.isfinite(images).all():
        raise ValueError(f"{name} holds values that are not finite; all have to be")


def check_digit_labels(labels: torch.Tensor, length: int) -> None:
    """Raise TypeError or ValueError unless labels is int64 `[length]` in 0 to 9."""
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise TypeError(f"labels is {got}; it needs a torch.int64 tensor")
    if tuple(labels.shape) != (length,):
        raise ValueError(f"labels has shape {tuple(labels.shape)}; {length} images need ({length},)")
    if int(labels.min()) < 0 or int(labels.max()) >= CLASSES:
        raise ValueError(f"labels spans {int(labels.min())} to {int(labels.max())}; it needs 0 to {CLASSES - 1}")


def _stratified_split(labels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    train, test = [], []
    for digit in range(CLASSES):
        members = (labels == digit).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = round(TEST_SHARE * len(members))
        test.append(members[:held_out])
        train.append(members[held_out:])
    return torch.cat(train), torch.cat(test)


def _distort(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    def uniform(limit: float) -> torch.Tensor:
        return (2.0 * torch.rand(len(images), generator=generator) - 1.0) * limit

    angle, slant, shift_x, shift_y = uniform(0.2), uniform(0.15), uniform(0.2), uniform(0.2)
    scale_x, scale_y = 1.0 + uniform(0.1), 1.0 + uniform(0.1)
    rows = (
        torch.stack([scale_x * angle.cos(), slant - angle.sin(), shift_x], dim=1),
        torch.stack([angle.sin(), scale_y * angle.cos(), shift_y], dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    # Sampling pads with 0, and the background is -1.
    return functional.grid_sample(images + 1.0, grid, align_corners=False) - 1.0
