import contextlib
import os

import numpy as np
import pytest
import torch
from PIL import Image

from rcgm.data import BatchStream, ImageFolder


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


def gradient(height=6, width=8):
    """RGB, darker on the left than on the right."""
    row = np.linspace(0, 255, width)
    return np.broadcast_to(row[None, :, None], (height, width, 3))


@pytest.fixture
def classes(tmp_path):
    for name, value in (("cat", 0), ("ant", 255)):
        for number in range(3):
            write(tmp_path / name / "deep" / f"{number}.png", np.full((5, 5, 3), value))
    (tmp_path / "notes.txt").write_text("not an image")
    write(tmp_path / ".cache" / "thumbnail.png", gradient())
    write(tmp_path / "cat" / ".cache" / "thumbnail.png", gradient())
    return tmp_path


def test_sub_folders_are_classes_in_order_of_their_names(classes):
    data = ImageFolder(classes, size=4)
    assert data.info.num_classes == 2 and data.info.class_names == ("ant", "cat")
    assert data.info.shape == (3, 4, 4) and data.info.value_range == (-1.0, 1.0)
    assert [label for _, label in data] == [0, 0, 0, 1, 1, 1]
    # Ants are white, cats black.
    assert torch.equal(data[0][0], torch.ones(3, 4, 4)) and torch.equal(data[5][0], -torch.ones(3, 4, 4))
    assert data[0][0].dtype == torch.float32


def test_order_is_that_of_the_names_whatever_the_disk_says(tmp_path, monkeypatch):
    for name in ("b/2.png", "b/1.png", "a/3.png"):
        write(tmp_path / name, gradient())
    scandir = os.scandir

    def backwards(folder):
        with scandir(folder) as entries:
            return contextlib.nullcontext(sorted(entries, key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr(os, "scandir", backwards)
    paths = ImageFolder(tmp_path, size=4).paths
    assert [os.path.relpath(path, tmp_path) for path in paths] == ["a/3.png", "b/1.png", "b/2.png"]


def test_without_sub_folders_there_are_no_labels(tmp_path):
    write(tmp_path / "b.PNG", gradient())
    write(tmp_path / "a.jpg", gradient())
    write(tmp_path / ".hidden.png", gradient())
    data = ImageFolder(tmp_path, size=4)
    assert data.info.num_classes is None and len(data) == 2
    assert data[1][1] == -1
    assert [path.rsplit("/", 1)[1] for path in data.paths] == ["a.jpg", "b.PNG"]


def test_crops_the_central_square(tmp_path):
    pixels = np.zeros((4, 12, 3))
    pixels[:, 4:8] = 255
    write(tmp_path / "wide.png", pixels)
    write(tmp_path / "tall.png", pixels.transpose(1, 0, 2))
    assert all(torch.equal(image, torch.ones(3, 4, 4)) for image, _ in ImageFolder(tmp_path, size=4))


def test_turns_as_the_camera_says(tmp_path):
    tag_orientation, turned = 0x0112, 3
    exif = Image.Exif()
    exif[tag_orientation] = turned
    Image.fromarray(gradient(8, 8).astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    image, _ = ImageFolder(tmp_path, size=8)[0]
    assert float(image[:, :, 0].mean()) > float(image[:, :, -1].mean())


def test_grey(tmp_path):
    write(tmp_path / "a.png", gradient(8, 8))
    image, _ = ImageFolder(tmp_path, size=8, channels=1)[0]
    assert image.shape == (1, 8, 8)
    torch.testing.assert_close(image[0, 0], torch.linspace(-1, 1, 8), atol=0.01, rtol=0)


def test_flip_is_drawn_from_the_generator(tmp_path):
    write(tmp_path / "a.png", gradient())
    flipping, still = ImageFolder(tmp_path, size=6, flip=True), ImageFolder(tmp_path, size=6)
    plain = still[0][0]
    assert torch.equal(flipping[0][0], plain)
    outcomes = []
    for seed in range(200):
        image, _ = flipping.augmented(0, torch.Generator().manual_seed(seed))
        assert torch.equal(image, plain) or torch.equal(image, plain.flip(-1))
        outcomes.append(torch.equal(image, plain))
        assert torch.equal(still.augmented(0, torch.Generator().manual_seed(seed))[0], plain)
    assert 70 < sum(outcomes) < 130


def test_flips_are_resumed_exactly_with_any_number_of_workers(tmp_path):
    for number in range(8):
        write(tmp_path / f"{number}.png", np.roll(gradient(8, 8), number, axis=1))
    data = ImageFolder(tmp_path, size=8, flip=True)
    stream = BatchStream(data, 4, seed=5)
    expected = [stream[step][0] for step in range(6)]
    for workers in (0, 2):
        resumed = iter(BatchStream(data, 4, seed=5, start_step=2, workers=workers))
        for step in range(2, 6):
            x, labels = next(resumed)
            assert torch.equal(x, expected[step]) and labels is None
    # The same image is not flipped alike in every epoch.
    flipped = set()
    for epoch in range(10):
        for step in (2 * epoch, 2 * epoch + 1):
            for image, index in zip(stream[step][0], stream.indices(step).tolist(), strict=True):
                flipped.add((index, torch.equal(image, data[index][0])))
    assert len(flipped) == 16


def test_broken_files_are_named_at_first_read(tmp_path):
    write(tmp_path / "good.png", gradient())
    (tmp_path / "bad.png").write_bytes(b"no image at all")
    data = ImageFolder(tmp_path, size=4)
    with pytest.raises(ValueError, match=r"cannot read the image .*bad\.png"):
        data[0]
    with pytest.raises(ValueError, match=r"cannot read the image .*bad\.png"):
        next(iter(BatchStream(data, 2, seed=0, workers=1)))
    assert data[1][0].shape == (3, 4, 4)


def test_verify_names_every_broken_file_at_once(tmp_path):
    write(tmp_path / "good.png", gradient(64, 64))
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.png").write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"2 of 3 images are broken") as caught:
        ImageFolder(tmp_path, size=4, verify=True)
    assert "bad.png" in str(caught.value) and "cut.png" in str(caught.value) and "good.png" not in str(caught.value)


def test_verify_does_not_list_thousands(tmp_path):
    for number in range(13):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"13 of 13 images are broken(.|\n)*09\.png(.|\n)*and 3 more"):
        ImageFolder(tmp_path, size=4, verify=True)


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: its pixel format is 'I;16'; 8 bits"):
        ImageFolder(tmp_path, size=4, channels=1)[0]


def test_refuses_folders(tmp_path, classes):
    with pytest.raises(ValueError, match="must be a folder that exists"):
        ImageFolder(tmp_path / "nowhere", size=4)
    (classes / "bird").mkdir()
    with pytest.raises(ValueError, match=r"must hold images in each sub-folder, got .* with none in \['bird'\]"):
        ImageFolder(classes, size=4)
    write(classes / "loose.png", gradient())
    with pytest.raises(ValueError, match=r"with both \(such as .*loose\.png\): move or remove"):
        ImageFolder(classes, size=4)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"must hold images .* without any"):
        ImageFolder(empty, size=4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": "4"}, TypeError, "size must be an int, got '4'"),
        ({"size": 4, "channels": 2}, ValueError, "channels must be 3 \\(RGB\\) or 1 \\(grey\\), got 2"),
    ],
)
def test_refuses_arguments(classes, arguments, error, message):
    with pytest.raises(error, match=message):
        ImageFolder(classes, **arguments)


def test_resizes_as_adm_does(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    # Twice as high as asked for: one halving by averages, then a crop. Pillow rounds after each axis.
    means = pixels.reshape(2, 2, 4, 2, 3).astype(np.float64).mean(axis=(1, 3))[:, 1:3]
    expected = torch.from_numpy(means).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(ImageFolder(tmp_path, 2, resize="adm")[0][0], expected, rtol=0, atol=1.01 / 127.5)
    for size in (3, 5, 9):
        assert ImageFolder(tmp_path, size, resize="adm")[0][0].shape == (3, size, size)
    with pytest.raises(ValueError, match="resize must be one of lanczos, adm, got 'cubic'"):
        ImageFolder(tmp_path, 2, resize="cubic")
