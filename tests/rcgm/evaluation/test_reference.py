import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rcgm.evaluation import Reference, read_reference, write_reference


@pytest.fixture
def reference():
    return Reference.of(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("with_features", [True, False])
def test_what_is_written_is_read(tmp_path, reference, with_features):
    written = reference if with_features else Reference(reference.mean, reference.covariance)
    write_reference(tmp_path / "real.safetensors", written)
    read, images = read_reference(tmp_path / "real.safetensors")
    assert images is None
    assert torch.equal(read.mean, reference.mean) and torch.equal(read.covariance, reference.covariance)
    assert torch.equal(read.features, reference.features) if with_features else read.features is None


def test_an_npz_as_published_with_and_without_images(tmp_path, reference):
    arrays = {"mu": reference.mean.numpy().astype("f4"), "sigma": reference.covariance.numpy()}
    np.savez(tmp_path / "plain.npz", **arrays)
    read, images = read_reference(tmp_path / "plain.npz")
    assert images is None and read.features is None
    assert read.mean.dtype == read.covariance.dtype == torch.float64
    torch.testing.assert_close(read.mean, reference.mean, rtol=1e-6, atol=1e-6)
    pixels = np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3)
    np.savez(tmp_path / "images.npz", arr_0=pixels, mu_s=np.zeros(3), **arrays)
    _, images = read_reference(tmp_path / "images.npz")
    assert images.shape == (2, 3, 3, 5)
    assert images[1, 2, 0, 4] == pixels[1, 0, 4, 2]


def test_what_is_wrong_is_said(tmp_path, reference):
    with pytest.raises(FileNotFoundError, match=r"no statistics of real images at '.*missing\.npz'"):
        read_reference(tmp_path / "missing.npz")
    np.savez(tmp_path / "a.npz", mu=np.zeros(3))
    with pytest.raises(ValueError, match="no array 'sigma', only"):
        read_reference(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", mu=np.zeros(3), sigma=np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"\(3,\) and \(3, 4\)"):
        read_reference(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", mu=np.zeros(3), sigma=np.eye(3), arr_0=np.zeros((2, 3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="arr_0 needs images"):
        read_reference(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    with pytest.raises(ValueError, match="pickle"):
        read_reference(tmp_path / "d.npz")
    (tmp_path / "e.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match=r"e\.npz"):
        read_reference(tmp_path / "e.npz")
    save_file({"mean": reference.mean}, tmp_path / "f.safetensors")
    with pytest.raises(ValueError, match="has no tensor 'covariance'"):
        read_reference(tmp_path / "f.safetensors")
    (tmp_path / "g.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"need an \.npz or \.safetensors"):
        read_reference(tmp_path / "g.pt")
    with pytest.raises(ValueError, match=r"written to a \.safetensors"):
        write_reference(tmp_path / "h.npz", reference)
