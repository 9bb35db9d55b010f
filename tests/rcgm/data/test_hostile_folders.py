"""Folders of images that somebody else has filled, by mistake or to do harm."""

import io
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from rcgm.data import BatchStream, ImageFolder
from rcgm.data.image_files import FORMATS, read_image

WHITE = (255, 255, 255)


def write(path, value=0, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 6), value if mode == "L" else (value,) * len(mode)).save(path, **options)


def test_only_image_formats_are_decoded_whatever_a_file_is_called(tmp_path):
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\nshowpage\n"
    (tmp_path / "a.png").write_bytes(postscript)
    stream = io.BytesIO()
    Image.new("RGB", (6, 6)).save(stream, "gif")
    (tmp_path / "b.png").write_bytes(stream.getvalue())
    data = ImageFolder(tmp_path, 4)
    for index, name in enumerate("ab"):
        with pytest.raises(ValueError, match=rf"{name}\.png: it is damaged or none of {', '.join(FORMATS)}"):
            data[index]


@pytest.mark.parametrize("suffix", ["bmp", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"])
def test_every_ending_that_is_searched_is_decoded(tmp_path, suffix):
    write(tmp_path / f"a.{suffix}", 255, "L" if suffix == "pgm" else "RGB")
    image, _ = ImageFolder(tmp_path, 4)[0]
    assert float(image.min()) > 0.97


def test_a_cycle_of_links_multiplies_nothing(tmp_path):
    write(tmp_path / "ant" / "1.png")
    write(tmp_path / "cat" / "2.png")
    (tmp_path / "ant" / "again").symlink_to(tmp_path / "ant", target_is_directory=True)
    (tmp_path / "ant" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "cat" / "self.png").symlink_to(tmp_path / "cat" / "self.png")
    data = ImageFolder(tmp_path, 4)
    assert [os.path.relpath(path, tmp_path) for path in data.paths] == ["ant/1.png", "cat/2.png"]
    assert "2 links to folders that were searched already" in data.notes[0]
    assert "1 pipes, devices or links that lead nowhere" in data.notes[0]


def test_a_class_that_is_a_link_to_another_is_refused(tmp_path):
    write(tmp_path / "ant" / "1.png")
    (tmp_path / "bee").symlink_to(tmp_path / "ant", target_is_directory=True)
    with pytest.raises(ValueError, match=r"none in \['bee'\] \(passed over: 1 links to folders that were searched"):
        ImageFolder(tmp_path, 4)


def test_links_to_elsewhere_are_followed(tmp_path):
    write(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ant").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(ImageFolder(tmp_path / "data", 4)) == 1


def test_pipes_and_dangling_links_are_passed_over(tmp_path):
    write(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")  # whose reader would wait for ever
    (tmp_path / "3.png").symlink_to(tmp_path / "nowhere.png")
    data = ImageFolder(tmp_path, 4)
    assert len(data) == 1 and data.notes == ["passed over 2 pipes, devices or links that lead nowhere"]


def test_says_what_was_passed_over(tmp_path):
    write(tmp_path / "ant" / "1.png")
    (tmp_path / "ant" / "2.gif").write_bytes(b"")
    (tmp_path / "ant" / "README").write_bytes(b"")
    (tmp_path / "ant" / "3.gif").write_bytes(b"")
    write(tmp_path / "ant" / ".4.png")
    (note,) = ImageFolder(tmp_path, 4).notes
    assert note == "passed over 3 files of other formats (.gif, no ending), 1 hidden files or folders"


def jpeg_with_exif(exif):
    """A valid JPEG whose EXIF segment holds these bytes."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(stream, "jpeg")
    content = b"Exif\x00\x00" + exif
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(content) + 2) + content + stream.getvalue()[2:]


@pytest.mark.parametrize(
    "exif",
    [b"garbage", b"II*\x00\xff\xff\xff\x7f", b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(9), b"MM\x00", b""],
)
def test_damaged_exif_of_a_valid_picture_is_no_error(tmp_path, exif):
    (tmp_path / "a.jpg").write_bytes(jpeg_with_exif(exif))
    image, _ = ImageFolder(tmp_path, 8)[0]
    assert float(image[0].min()) > 0.9 and float(image[1].max()) < -0.9


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(tmp_path, orientation):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    # How a camera stores a picture that has to be shown as `pixels`: the inverse of what the number asks for.
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].T,
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.array(read_image(str(tmp_path / "a.png"), "L", WHITE)), pixels)


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
def test_transparent_pixels_show_the_background_and_no_hidden_colours(tmp_path, background):
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[..., 0] = 200  # red everywhere, hidden in the left column
    pixels[:, 1, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = np.array(read_image(str(tmp_path / "a.png"), "RGB", background))
    assert image[:, 0].tolist() == [list(background)] * 2 and image[:, 1].tolist() == [[200, 0, 0]] * 2
    through = ImageFolder(tmp_path, 2, background=background)[0][0]
    torch.testing.assert_close(through[:, 0, 0], torch.tensor(background).float() / 127.5 - 1)


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_other_kinds_of_transparency(tmp_path, mode):
    if mode == "LA":
        Image.new("LA", (2, 2), (77, 0)).save(tmp_path / "a.png")
    else:
        image = Image.new("P", (2, 2), 0)
        image.putpalette([77, 77, 77])
        image.save(tmp_path / "a.png", transparency=0)
    assert np.array(read_image(str(tmp_path / "a.png"), "L", WHITE)).tolist() == [[255, 255]] * 2


def test_broken_images_can_be_left_out_and_are_counted(tmp_path):
    for number in range(6):
        write(tmp_path / "ant" / f"{number}.png", number * 40)
    (tmp_path / "ant" / "2.png").write_bytes(b"no image")
    write(tmp_path / "cat" / "1.png", 255)
    whole = (tmp_path / "cat" / "1.png").read_bytes()
    (tmp_path / "cat" / "0.png").write_bytes(whole[: len(whole) // 2])
    data = ImageFolder(tmp_path, 4, broken="leave_out")
    assert len(data) == 6 and data.labels == [0] * 5 + [1]
    assert data.notes[0].startswith("left out 2 broken images:\n") and "ant/2.png" in data.notes[0]
    stream = iter(BatchStream(data, 3, seed=0, workers=2))
    assert next(stream)[0].shape == (3, 3, 4, 4)
    with pytest.raises(ValueError, match=r"2 of 8 images are broken \(broken: leave_out goes on without them\)"):
        ImageFolder(tmp_path, 4, verify=True)
    with pytest.raises(ValueError, match=r"ant/2\.png: .*: repair or remove it, or set data\.broken=leave_out"):
        ImageFolder(tmp_path, 4)[2]


def test_a_class_without_a_whole_image_is_refused(tmp_path):
    write(tmp_path / "ant" / "1.png")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"classes \['cat'\] have no image that can be decoded"):
        ImageFolder(tmp_path, 4, broken="leave_out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"background": (0, 0)}, r"background must be red, green and blue, each 0 to 255, got \(0, 0\)"),
        ({"background": (0, 0, 256)}, "background must be red, green and blue"),
        ({"broken": "skip"}, "broken must be one of error, leave_out, got 'skip'"),
    ],
)
def test_refuses(tmp_path, arguments, message):
    write(tmp_path / "1.png")
    with pytest.raises(ValueError, match=message):
        ImageFolder(tmp_path, 4, **arguments)
