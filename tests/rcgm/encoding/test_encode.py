import json

import pytest
import torch
from safetensors.torch import load_file

from rcgm.cli import main
from rcgm.data import ImageFolder, Latents
from rcgm.encoding import ChannelStatistics, Plan, encode_shards, write_manifest
from rcgm.models.autoencoders import load_autoencoder
from tests.support.autoencoder_files import CLASSES, save_dc, save_kl, write_images
from tests.support.launching import endings, finish, start_ranks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dc(tmp_path_factory):
    return save_dc(tmp_path_factory.mktemp("dc"))


def shards(output):
    return [load_file(path) for path in sorted(output.glob("*.safetensors"))]


def bytes_of(output):
    return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


def test_writes_the_layout_of_lightning_dit(images, tmp_path, kl, capsys, encode):
    assert encode(images, tmp_path / "out", kl) == 0
    assert "11 images to moments of 8 x 4 x 4, 3 shards (3 of 3 written)" in capsys.readouterr().out
    files = shards(tmp_path / "out")
    assert [len(file["labels"]) for file in files] == [4, 4, 3]
    assert torch.cat([file["labels"] for file in files]).tolist() == [0] * 4 + [1] * 2 + [2] * 5
    autoencoder = load_autoencoder(kl, device=CPU)
    folder = ImageFolder(images, 8, resize="adm")
    for start, file in zip((0, 4, 8), files, strict=True):
        assert set(file) == {"latents", "latents_flip", "labels"} and file["latents"].dtype == torch.float32
        for row in range(len(file["labels"])):
            image = folder[start + row][0][None]
            torch.testing.assert_close(file["latents"][row], autoencoder.encode(image)[0], rtol=1e-4, atol=1e-5)
            mirrored = autoencoder.encode(image.flip(-1))[0]
            torch.testing.assert_close(file["latents_flip"][row], mirrored, rtol=1e-4, atol=1e-5)


def test_the_manifest_and_what_reads_it(images, tmp_path, kl, encode):
    encode(images, tmp_path / "out", kl)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["autoencoder"]["config"]["scaling_factor"] == 0.18215
    assert manifest["classes"] == list(CLASSES) and manifest["class_counts"] == [4, 2, 5]
    assert [shard["samples"] for shard in manifest["shards"]] == [4, 4, 3]
    dataset = Latents(tmp_path / "out")
    assert len(dataset) == manifest["samples"] == 11
    assert dataset.info.shape == (4, 4, 4) and dataset.info.class_names == CLASSES
    drawn = [
        dataset.augmented(index, torch.Generator().manual_seed(seed))[0] for index in range(11) for seed in range(60)
    ]
    statistics = ChannelStatistics.of(torch.stack(drawn))
    torch.testing.assert_close(statistics.mean, torch.zeros(4).double(), rtol=0, atol=0.08)
    torch.testing.assert_close(statistics.std, torch.ones(4).double(), rtol=0, atol=0.08)


def test_a_manifest_that_no_longer_fits(images, tmp_path, kl, encode):
    encode(images, tmp_path / "out", kl)
    (tmp_path / "out" / "latents_shard00001.safetensors").unlink()
    with pytest.raises(ValueError, match="holds 7 samples and its manifest says 11"):
        Latents(tmp_path / "out")


def test_an_unfinished_folder_is_not_read(images, tmp_path, kl):
    plan = Plan(ImageFolder(images, 8), tmp_path / "out", load_autoencoder(kl, device=CPU), 8, shard_size=4)
    encode_shards(plan, batch_size=4, rank=0, world_size=2)
    with pytest.raises(ValueError, match=r"has shards and no manifest\.json yet"):
        Latents(tmp_path / "out")


def test_a_channel_without_scale_is_told_once_all_is_written(images, tmp_path, kl, capsys, encode):
    encode(images, tmp_path / "out", kl)
    before = bytes_of(tmp_path / "out")
    for path in (tmp_path / "out").glob("latents_shard*.json"):
        record = json.loads(path.read_text())
        record["statistics"]["squares"][2] = 0.0
        record["statistics"]["mean"][2] = 1.0
        path.write_text(json.dumps(record))
    assert encode(images, tmp_path / "out", kl) == 2
    assert "channels [2] of the latents are the same for all images" in capsys.readouterr().err
    assert bytes_of(tmp_path / "out")["manifest.json"] == before["manifest.json"]
    with pytest.raises(ValueError, match=r"latents_stats\.json: std\[2\] must be a finite number above 0, got 0\.0"):
        Latents(tmp_path / "out")
    assert len(Latents(tmp_path / "out", mean=0.0, std=1.0)) == 11


@pytest.mark.parametrize("victim", ["shard", "record", "byte"])
def test_goes_on_where_it_was_stopped(images, tmp_path, kl, victim, monkeypatch, encode):
    encode(images, tmp_path / "out", kl)
    whole = bytes_of(tmp_path / "out")
    path = tmp_path / "out" / "latents_shard00001.safetensors"
    if victim == "shard":
        path.write_bytes(path.read_bytes()[:-7])
    elif victim == "record":
        path.with_suffix(".json").unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    (tmp_path / "out" / "manifest.json").unlink()
    encoded = []
    read = ImageFolder.__getitem__
    monkeypatch.setattr(ImageFolder, "__getitem__", lambda self, index: encoded.append(index) or read(self, index))
    assert encode(images, tmp_path / "out", kl) == 0
    assert encoded == [4, 5, 6, 7]
    assert bytes_of(tmp_path / "out") == whole
    assert encode(images, tmp_path / "out", kl, "--workers", "1") == 0 and encoded == [4, 5, 6, 7]


def test_ranks_write_what_one_process_writes(images, tmp_path, kl):
    autoencoder = load_autoencoder(kl, device=CPU)

    def plan(name):
        return Plan(ImageFolder(images, 8, resize="adm"), tmp_path / name, autoencoder, 8, "samples", shard_size=2)

    encode_shards(plan("one"), batch_size=2)
    write_manifest(plan("one"))
    counts = [encode_shards(plan("four"), batch_size=2, rank=rank, world_size=4) for rank in (3, 1, 0)]
    assert counts == [1, 2, 2]
    with pytest.raises(
        ValueError, match=r"shard00002\.safetensors is missing or .* have changed: run the encode command again"
    ):
        write_manifest(plan("four"))
    assert encode_shards(plan("four"), batch_size=2, rank=2, world_size=4) == 1
    write_manifest(plan("four"))
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "four")


def test_two_processes(images, tmp_path, kl):
    words = ["encode", images, tmp_path / "out", "--autoencoder", kl, "--size", "8", "--shard-size", "3"]
    ranks = start_ranks(main, (list(map(str, words)),), 2, tmp_path)
    finish(ranks)
    assert [rank.code for rank in ranks] == [0, 0], endings(ranks)
    told = "11 images to moments of 8 x 4 x 4, 4 shards (2 of 4 written by this rank)"
    assert "".join(rank.output for rank in ranks).count(told) == 1
    assert len(Latents(tmp_path / "out")) == 11


def test_draws_do_not_depend_on_the_batch(images, tmp_path, kl, encode):
    for name, size in (("a", "1"), ("b", "4")):
        encode(images, tmp_path / name, kl, "--store", "samples", "--batch-size", size)
    for one, other in zip(shards(tmp_path / "a"), shards(tmp_path / "b"), strict=True):
        torch.testing.assert_close(one["latents"], other["latents"], rtol=1e-4, atol=1e-5)
        assert one["latents"].shape[1:] == (4, 4, 4)
    assert Latents(tmp_path / "a").info.shape == (4, 4, 4)


def test_dc_ae(images, tmp_path, dc, encode):
    assert encode(images, tmp_path / "out", dc, "--dtype", "bfloat16", "--no-flips") == 0
    files = shards(tmp_path / "out")
    assert set(files[0]) == {"latents", "labels"} and files[0]["latents"].dtype == torch.bfloat16
    dataset = Latents(tmp_path / "out")
    assert dataset.info.shape == (8, 4, 4)
    assert torch.equal(dataset[0][0], dataset.augmented(0, torch.Generator())[0])
    encoded = load_autoencoder(dc, device=CPU).encode(ImageFolder(images, 8, resize="adm")[0][0][None])[0]
    torch.testing.assert_close(dataset.info.normalisation.undo(dataset[0][0]), encoded, rtol=0.02, atol=0.02)


def test_grey_images_without_classes(tmp_path, encode):
    autoencoder = save_kl(tmp_path / "grey", in_channels=1, latent_channels=2)
    images = write_images(tmp_path / "images", counts=(5,)) / "cat"
    assert encode(images, tmp_path / "out", autoencoder) == 0
    dataset = Latents(tmp_path / "out")
    assert dataset.info.num_classes is None and dataset[0][1] == -1 and dataset.info.shape == (2, 4, 4)


def test_other_settings_do_not_mix(images, tmp_path, kl, capsys, encode):
    encode(images, tmp_path / "out", kl)
    before = bytes_of(tmp_path / "out")
    assert encode(images, tmp_path / "out", kl, "--dtype", "float16") == 2
    assert "was encoded from other images or with other settings" in capsys.readouterr().err
    (images / "cat" / "0.png").unlink()
    assert encode(images, tmp_path / "out", kl) == 2
    assert bytes_of(tmp_path / "out") == before


def test_numbers_that_do_not_fit_into_float16(images, tmp_path, capsys, encode):
    autoencoder = save_kl(tmp_path / "large", scale=1e7)
    assert encode(images, tmp_path / "out", autoencoder, "--dtype", "float16") == 2
    assert "cat/0.png are not finite in float16: store bfloat16 or float32" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "7"], "size must be a multiple of 2, the factor of the autoencoder, got 7"),
        (["--store", "samples", "--autoencoder", "DC"], "stored must be left out for AutoencoderDC"),
        (["--autoencoder", "/nowhere"], "must be a folder with a config.json"),
    ],
)
def test_refuses(images, tmp_path, kl, dc, words, message, capsys, encode):
    assert encode(images, tmp_path / "out", kl, *(str(dc) if word == "DC" else word for word in words)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_refuses_counts(images, tmp_path, kl):
    plan = Plan(ImageFolder(images, 8), tmp_path / "out", load_autoencoder(kl, device=CPU), 8)
    with pytest.raises(ValueError, match="rank must be from 0 to 1, got 2"):
        encode_shards(plan, batch_size=1, rank=2, world_size=2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encode_shards(plan, batch_size=0)
    with pytest.raises(ValueError, match=r"dtype must be one of .*, got 'int8'"):
        Plan(plan.images, plan.output, plan.autoencoder, 8, dtype="int8")
    with pytest.raises(ValueError, match=r"stored must be one of .*, got 'means'"):
        Plan(plan.images, plan.output, plan.autoencoder, 8, "means")
