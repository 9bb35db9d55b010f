"""Small latent data sets in each of the layouts, all of the same samples."""

import io
import json
import tarfile

import numpy as np
import torch
from safetensors.torch import save_file

CHANNELS, HEIGHT, WIDTH = 4, 3, 2
COUNTS = (5, 3, 9)
TOTAL = sum(COUNTS)


def sample(index, flipped=False):
    """What sample `index` holds: all different, and exact in bfloat16."""
    base = torch.arange(CHANNELS * HEIGHT * WIDTH, dtype=torch.float32).reshape(CHANNELS, HEIGHT, WIDTH)
    return base.flip(-1) - index if flipped else base - index


def stack(start, count, flipped=False, make=sample):
    return torch.stack([make(index, flipped) for index in range(start, start + count)])


def label(index):
    return index % 3


def write_shards(folder, *, flips=True, labels=True, dtype=torch.float32, counts=COUNTS, make=sample):
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for number, count in enumerate(counts):
        tensors = {"latents": stack(start, count, make=make).to(dtype)}
        if flips:
            tensors["latents_flip"] = stack(start, count, True, make).to(dtype)
        if labels:
            tensors["labels"] = torch.tensor([label(index) for index in range(start, start + count)])
        save_file(tensors, folder / f"latents_rank00_shard{number:03d}.safetensors")
        start += count
    return folder


def npy(tensor):
    stream = io.BytesIO()
    np.save(stream, tensor.numpy())
    return stream.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def write_tars(folder):
    start = 0
    for number, count in enumerate(COUNTS):
        members = {}
        for index in range(start, start + count):
            members[f"train/{index:06d}.latents.npy"] = npy(sample(index)[None])
            members[f"train/{index:06d}.latents_flip.npy"] = npy(sample(index, True)[None])
            members[f"train/{index:06d}.cls"] = str(label(index)).encode()
        write_tar(folder / f"latents-{number:04d}.tar", members)
        start += count
    return folder


def write_numpy(folder):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "latents.npy", stack(0, TOTAL).numpy().astype(np.float16))
    np.save(folder / "latents_flip.npy", stack(0, TOTAL, True).numpy().astype(np.float16))
    np.save(folder / "labels.npy", np.array([label(index) for index in range(TOTAL)], dtype=np.int32))
    return folder


def write_numpy_files(folder):
    (folder / "00000").mkdir(parents=True, exist_ok=True)
    listing = []
    for index in range(TOTAL):
        name = f"00000/img-mean-std-{index:08d}.npy"
        np.save(folder / name, sample(index).numpy())
        listing.append([name, label(index)])
    (folder / "dataset.json").write_text(json.dumps({"labels": listing}))
    return folder


WRITERS = {"safetensors": write_shards, "webdataset": write_tars, "numpy": write_numpy, "files": write_numpy_files}
