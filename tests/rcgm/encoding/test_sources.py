"""Images with captions from folders, tar files and parquet files; what is broken is named, and stops nothing."""

import io
import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from rcgm.data.image_files import image_size, read_image
from rcgm.encoding.sources import BadPairError, Reason, open_source
from rcgm.encoding.sources.pair import LARGEST_CAPTION


def picture(value=0, size=(8, 6), kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(np.full((*size[::-1], 3), value, dtype=np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


def pairs(source):
    """Caption and gray value of each pair, or the reason why there is none."""
    found = []
    for index in range(len(source)):
        try:
            image = read_image(source.image(index), "RGB", (0, 0, 0), source.name(index))
            found.append((source.name(index), source.caption(index), image.getpixel((0, 0))[0]))
        except BadPairError as error:
            found.append((source.name(index), error.reason))
        except ValueError as error:
            found.append((source.name(index), Reason.IMAGE_BROKEN if source.name(index) in str(error) else str(error)))
    return found


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "deep").mkdir()
    for number in range(3):
        (tmp_path / f"deep/{number}.png").write_bytes(picture(number))
    lines = [{"file_name": f"deep/{number}.png", "text": f" caption {number}\n", "more": 1} for number in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return tmp_path


def test_a_listed_folder(listed):
    source = open_source(listed)
    assert pairs(source) == [(f"deep/{number}.png", f"caption {number}", number) for number in range(3)]
    assert image_size(source.image(0)) == (6, 8)
    before = source.stamp(1)
    (listed / "deep/1.png").write_bytes(picture(99))
    assert source.stamp(1) != before
    assert source.stamp(0) == open_source(listed).stamp(0)


def test_bad_lines_are_named_and_stop_nothing(listed):
    good = {"file_name": "deep/0.png", "text": "one"}
    (listed / "broken.png").write_bytes(picture()[:45])
    os.mkfifo(listed / "pipe.png")
    lines = [
        json.dumps(good),
        "{",
        "[" * 100_000,
        "[]",
        json.dumps({**good, "file_name": "../secret.png"}),
        json.dumps({**good, "file_name": "/etc/passwd"}),
        json.dumps({**good, "file_name": "deep/\0.png"}),
        json.dumps({**good, "file_name": "nothing.png"}),
        json.dumps({**good, "file_name": "pipe.png"}),
        json.dumps({**good, "file_name": 7}),
        json.dumps({**good, "file_name": "broken.png"}),
        json.dumps({**good, "text": "  "}),
        json.dumps({**good, "text": 7}),
        json.dumps({"file_name": "deep/0.png"}),
        json.dumps({**good, "text": "two\u2028lines"}, ensure_ascii=False),
    ]
    (listed / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = pairs(open_source(listed))
    assert [reason for _, reason, *_ in found] == [
        "one",
        *[Reason.CAPTION_BROKEN] * 3,
        *[Reason.IMAGE_MISSING] * 6,
        Reason.IMAGE_BROKEN,
        Reason.CAPTION_EMPTY,
        Reason.CAPTION_BROKEN,
        Reason.CAPTION_MISSING,
        "two\u2028lines",
    ]
    assert found[1][0] == "line 2 of metadata.jsonl"
    assert all(open_source(listed).stamp(index) for index in range(len(lines)))


def test_other_keys_of_a_list(listed):
    (listed / "metadata.jsonl").write_text(json.dumps({"image": "deep/2.png", "prompt": "two"}))
    with pytest.raises(ValueError, match="must have the keys file_name, text, got image, prompt: name them with"):
        open_source(listed)
    assert pairs(open_source(listed, image_key="image", caption_key="prompt")) == [("deep/2.png", "two", 2)]
    (listed / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match="must hold a line for each image"):
        open_source(listed)
    (listed / "metadata.jsonl").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"cannot read .*metadata\.jsonl"):
        open_source(listed)


def test_captions_beside_images(tmp_path):
    for number, name in enumerate(["b/z.jpg", "a.png", "b/y.webp", "c.png", "d.png", "e.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        kind = {"jpg": "JPEG", "png": "PNG", "ebp": "WEBP"}[name[-3:]]
        (tmp_path / name).write_bytes(picture(number * 40, kind=kind))
        (tmp_path / name).with_suffix(".txt").write_text(f"caption {number}")
    (tmp_path / "c.txt").unlink()
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "e.txt").write_text("x" * (LARGEST_CAPTION + 1))
    (tmp_path / "readme.md").write_text("none of it")
    source = open_source(tmp_path)
    found = pairs(source)
    assert [entry[:2] for entry in found] == [
        ("a.png", "caption 1"),
        ("b/y.webp", "caption 2"),
        ("b/z.jpg", "caption 0"),
        ("c.png", Reason.CAPTION_MISSING),
        ("d.png", Reason.CAPTION_BROKEN),
        ("e.png", Reason.CAPTION_BROKEN),
    ]
    assert source.notes == ["passed over: 1 files of other formats (.md)"]
    before = source.stamp(0)
    (tmp_path / "a.txt").write_text("another caption")
    assert source.stamp(0) != before
    with pytest.raises(ValueError, match=r"caption_key must be left out for a folder without metadata\.jsonl"):
        open_source(tmp_path, caption_key="text")


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def tars(tmp_path):
    with tarfile.open(tmp_path / "one.tar", "w") as archive:
        add(archive, "00/a.jpg", picture(10, kind="JPEG"))
        add(archive, "00/a.txt", b"caption a\n")
        add(archive, "00/b.PNG", picture(20))
        add(archive, "00/b.json", json.dumps({"caption": "caption b", "long": "a long caption b"}).encode())
    with tarfile.open(tmp_path / "two.tar", "w") as archive:
        add(archive, "c.webp", picture(30, kind="WEBP", lossless=True))
        add(archive, "c.txt", "caption ç".encode())
        add(archive, "c.json", json.dumps({"long": "a long caption c"}).encode())
        add(archive, "d.txt", b"no image")
        add(archive, "e.png", picture())
        add(archive, "f.png", picture())
        add(archive, "f.json", b"[" * 100_000)
        add(archive, "g.png", picture())
        add(archive, "g.txt", b"\xff")
        add(archive, "h.png", b"no picture")
        add(archive, "h.txt", b"h")
        add(archive, "readme.md", b"none of it")
    return tmp_path


def test_tar_files(tars):
    source = open_source(tars)
    found = pairs(source)
    assert [entry[:2] for entry in found] == [
        ("one.tar/00/a", "caption a"),
        ("one.tar/00/b", "caption b"),
        ("two.tar/c", "caption ç"),
        ("two.tar/d", Reason.IMAGE_MISSING),
        ("two.tar/e", Reason.CAPTION_MISSING),
        ("two.tar/f", Reason.CAPTION_BROKEN),
        ("two.tar/g", Reason.CAPTION_BROKEN),
        ("two.tar/h", Reason.IMAGE_BROKEN),
    ]
    assert [entry[2] for entry in found[1:3]] == [20, 30]
    assert source.notes == ["passed over: 1 members that are neither images nor captions"]
    assert len(open_source(tars / "one.tar")) == 2
    long = open_source(tars, caption_key="long")
    assert [long.caption(index) for index in (1, 2)] == ["a long caption b", "a long caption c"]
    with pytest.raises(BadPairError):
        long.caption(0)
    assert pairs(pickle.loads(pickle.dumps(source))) == found


def test_damaged_tar_files_are_named(tars):
    content = (tars / "one.tar").read_bytes()
    (tars / "one.tar").write_bytes(content[:3000])
    with pytest.raises(ValueError, match=r"one\.tar"):
        open_source(tars)
    (tars / "one.tar").write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match=r"cannot read .*one\.tar as an uncompressed tar file"):
        open_source(tars)
    (tars / "one.tar").unlink()
    with tarfile.open(tars / "two.tar", "w") as archive:
        add(archive, "a.txt", b"no image")
    with pytest.raises(ValueError, match="must hold images"):
        open_source(tars)


def test_parquet_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "beside.png").write_bytes(picture(77))
    images = [{"bytes": picture(number), "path": None} for number in range(5)]
    images += [{"bytes": None, "path": "beside.png"}, {"bytes": None, "path": "../secret.png"}, None]
    captions = [f"caption {number}" for number in range(6)] + ["x", "y"]
    parquet.write_table(pyarrow.table({"image": images, "text": captions}), tmp_path / "a.parquet", row_group_size=3)
    more = pyarrow.table({"image": images[:2], "text": [None, ""]})
    parquet.write_table(more, tmp_path / "b.parquet")
    source = open_source(tmp_path)
    expected = [
        *((f"a.parquet/{number}", f"caption {number}", number) for number in range(5)),
        ("a.parquet/5", "caption 5", 77),
        ("a.parquet/6", Reason.IMAGE_MISSING),
        ("a.parquet/7", Reason.IMAGE_MISSING),
        ("b.parquet/0", Reason.CAPTION_MISSING),
        ("b.parquet/1", Reason.CAPTION_EMPTY),
    ]
    assert pairs(source) == expected
    again = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda index: again.name(index) and again.image(index).read(), range(5))) == [
            picture(number) for number in range(5)
        ]
    assert len(open_source(tmp_path / "b.parquet")) == 2
    with pytest.raises(ValueError, match="image_column must be one of image, text, got 'jpg'"):
        open_source(tmp_path, image_key="jpg")


def test_other_columns_and_damaged_parquet_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"content": [picture(5)], "words": ["one"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="image_column must name one of the columns content, words: none is called"):
        open_source(tmp_path)
    assert pairs(open_source(tmp_path, image_key="content", caption_key="words")) == [("a.parquet/0", "one", 5)]
    parquet.write_table(pyarrow.table({"content": [picture(5)]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet must have the columns"):
        open_source(tmp_path, image_key="content", caption_key="words")
    (tmp_path / "b.parquet").unlink()
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:40] = b"\xff" * 36  # a page, not the footer
    (tmp_path / "a.parquet").write_bytes(content)
    source = open_source(tmp_path, image_key="content", caption_key="words")
    with pytest.raises(BadPairError) as error:
        source.image(0)
    assert error.value.reason == Reason.ROW_BROKEN
    (tmp_path / "a.parquet").write_bytes(content[:30])
    with pytest.raises(ValueError, match=r"cannot read the parquet file .*a\.parquet"):
        open_source(tmp_path)


def test_folders_that_hold_nothing_or_too_much(tmp_path, tars):
    with pytest.raises(ValueError, match="source must be a folder or a file that exists"):
        open_source(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="source must hold images"):
        open_source(tmp_path / "empty")
    (tmp_path / "empty/a.png").write_bytes(picture())
    with pytest.raises(ValueError, match=r"source must hold captions, in metadata\.jsonl or in a \.txt file beside"):
        open_source(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"must hold files that end in \.tar"):
        open_source(tmp_path / "empty", "webdataset")
    with pytest.raises(ValueError, match="kind must be one of auto, folder, webdataset, parquet"):
        open_source(tmp_path, "zip")
    with pytest.raises(ValueError, match="image_key must be left out for tar files"):
        open_source(tars, image_key="jpg")
    (tars / "a.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="kind must name one of webdataset, parquet"):
        open_source(tars)
    with pytest.raises(ValueError, match=r"source must be a folder, a \.tar or a \.parquet file"):
        open_source(tmp_path / "empty/a.png")


def test_the_size_of_a_turned_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = picture(kind="JPEG", exif=exif)
    assert image_size(io.BytesIO(content)) == (8, 6)
    assert read_image(io.BytesIO(content), "RGB", (0, 0, 0)).size == (6, 8)
    with pytest.raises(ValueError, match="cannot read the image here/there: it is damaged or none of BMP"):
        image_size(io.BytesIO(b"nothing"), "here/there")
