"""A small classifier of small images, trained on real ones, which judges generated ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from rcgm.data.digits import Digits

DIGIT_SHAPE, DIGITS = (1, 8, 8), 10
HELD_OUT = 0.2
BATCH = 64
PEAK_LEARNING_RATE = 1e-2
FEATURES = 64


class ImageClassifier(nn.Module):
    """Three convolutions and two linear layers for images float32 `[B, C, H, W]` in [-1, 1], H and W of 4 or more.

    Args:
        generator: draws the weights.
        channels: C.
        classes: number of them.
    """

    def __init__(self, generator: torch.Generator, channels: int = 1, classes: int = DIGITS) -> None:
        super().__init__()
        # skip_init leaves torch's global generator alone; the weights are drawn below.
        self.convolutions = nn.Sequential(
            nn.utils.skip_init(nn.Conv2d, channels, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.utils.skip_init(nn.Conv2d, 32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.utils.skip_init(nn.Conv2d, 32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),  # of 8 by 8 pixels, nothing is left to do
            nn.Flatten(),
        )
        self.hidden = nn.utils.skip_init(nn.Linear, 64 * 4 * 4, FEATURES)
        self.head = nn.utils.skip_init(nn.Linear, FEATURES, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits float32 `[B, classes]` and features float32 `[B, 64]`, the penultimate layer after its ReLU."""
        features = functional.relu(self.hidden(self.convolutions(images)))
        return self.head(features), features


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier and what it is worth.

    Args:
        model: in evaluation mode, on the CPU.
        shape: `(C, H, W)` of the images.
        classes: number of them.
        held_out: int64 `[K]`, a fifth of each class: indices of the images that it was not trained on.
        accuracy: share of the held-out images that it classifies correctly; generated ones cannot be judged finer.
    """

    model: ImageClassifier
    shape: tuple[int, int, int]
    classes: int
    held_out: torch.Tensor
    accuracy: float

    @torch.no_grad()
    def classify(self, images: torch.Tensor, chunk: int = 1024) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes int64 `[N]` and features float32 `[N, 64]` of images floating `[N, C, H, W]` in [-1, 1].

        Raises:
            TypeError, ValueError: images is no floating tensor, of another shape, empty, or not finite.
        """
        check_images("images", images, self.shape)
        outputs = [self.model(part) for part in images.cpu().float().split(chunk)]
        logits = torch.cat([logits for logits, _ in outputs])
        return logits.argmax(dim=1), torch.cat([features for _, features in outputs])


def class_accuracy(classifier: TrainedClassifier, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images that the classifier takes for the class they were asked for.

    Args:
        classifier: from `train_classifier`.
        images: floating `[N, C, H, W]` in [-1, 1].
        labels: int64 `[N]`, numbers of classes.

    Raises:
        TypeError, ValueError: images or labels are not as above.
    """
    check_images("images", images, classifier.shape)
    check_class_labels(labels, len(images), classifier.classes)
    predictions, _ = classifier.classify(images)
    return float((predictions == labels.cpu()).double().mean())


def train_digit_classifier(seed: int = 0, epochs: int = 20) -> TrainedClassifier:
    """Train a classifier of `rcgm.data.Digits`, which takes a few seconds on one CPU core; see `train_classifier`."""
    digits = Digits()
    return train_classifier(digits.samples, digits.labels, DIGITS, seed=seed, epochs=epochs)


def train_classifier(
    images: torch.Tensor, labels: torch.Tensor, classes: int, *, seed: int = 0, epochs: int = 20
) -> TrainedClassifier:
    """Train a classifier on four fifths of each class, and test it on the rest.

    The images are shifted, turned, scaled and slanted a little. Everything random, the split included, is drawn from
    `seed`, so on one machine a seed gives one classifier.

    Args:
        images: float32 `[N, C, H, W]` in [-1, 1], H and W of 4 or more, four fifths of them at least 64.
        labels: int64 `[N]`, numbers of classes.
        classes: number of them.
        seed: of all that is drawn.
        epochs: how often each image is seen.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    shape = tuple(images.shape[1:])
    check_images("images", images, shape)
    check_class_labels(labels, len(images), classes)
    generator = torch.Generator().manual_seed(seed)
    train, test = _stratified_split(labels, classes, generator)
    if len(train) < BATCH or not len(test):
        raise ValueError(f"images must be enough to train on {BATCH} and to hold some back, got {len(images)}")
    model = ImageClassifier(generator, shape[0], classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-2)
    steps = epochs * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = train[torch.randperm(len(train), generator=generator)]
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            logits, _ = model(_distort(images[batch], generator))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval().requires_grad_(False)
    untested = TrainedClassifier(model, shape, classes, test, math.nan)
    return replace(untested, accuracy=class_accuracy(untested, images[test], labels[test]))


def check_images(name: str, images: torch.Tensor, shape: tuple[int, ...], minimum: int = 1) -> None:
    """Raise TypeError or ValueError unless images is floating `[N, *shape]`, N of at least minimum, and finite."""
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise TypeError(f"{name} must be a floating torch.Tensor, got {got}")
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(shape) or len(images) < minimum:
        needed = ", ".join(map(str, shape))
        raise ValueError(f"{name} must be [N, {needed}] with N of at least {minimum}, got {list(images.shape)}")
    if not torch.isfinite(images).all():
        raise ValueError(f"{name} must be finite, got infinities or NaN")


def check_class_labels(labels: torch.Tensor, length: int, classes: int) -> None:
    """Raise TypeError or ValueError unless labels is int64 `[length]` in `[0, classes)`."""
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a torch.int64 tensor, got {got}")
    if tuple(labels.shape) != (length,):
        raise ValueError(f"labels must be [{length}], one an image, got {list(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")


def _stratified_split(
    labels: torch.Tensor, classes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    train, test = [], []
    for label in range(classes):
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = round(HELD_OUT * len(members))
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
