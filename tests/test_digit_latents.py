"""The digits as image files, and an autoencoder of them."""

import torch

from benchmarks.digit_latents import reconstruction_error, train_autoencoder, write_images
from rcgm.data import Digits, ImageFolder


def test_the_files_hold_the_digits(tmp_path):
    write_images(tmp_path)
    digits = Digits()
    folder = ImageFolder(tmp_path, 8, 1, resize="adm")
    assert folder.info.class_names == tuple("0123456789")
    # In the folder they are sorted by class, within one by their number.
    order = sorted(range(len(digits)), key=lambda index: (int(digits.labels[index]), index))
    assert len(folder) == len(digits) and folder.labels == digits.labels[order].tolist()
    for position in range(0, len(folder), 50):
        torch.testing.assert_close(folder[position][0], digits[order[position]][0], rtol=0, atol=1.01 / 255)


def test_an_autoencoder_learns_them(tmp_path):
    images = Digits().samples
    errors = [train_autoencoder(tmp_path / str(steps), steps=steps) for steps in (5, 40)]
    spread = float(images.std())
    assert errors[1] < 0.6 * spread and errors[1] < 0.8 * errors[0]
    assert errors[1] == reconstruction_error(tmp_path / "40", images)
