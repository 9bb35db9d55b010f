import pickle
import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rcgm.evaluation import load_inception

CPU = torch.device("cpu")


class StandIn(nn.Module):
    """Takes its weights as torch-fidelity's class does."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        self.features_list = features_list
        self.fc = nn.Linear(3, 2)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, images):
        features = images.float().mean(dim=(2, 3))
        return features, self.fc(features)


@pytest.fixture
def installed(monkeypatch):
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = StandIn
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def weights():
    return {"fc.weight": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), "fc.bias": torch.ones(2)}


def test_weights_come_from_either_kind_of_file(tmp_path, installed, weights):
    save_file(weights, tmp_path / "w.safetensors")
    torch.save(weights, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        network = load_inception(tmp_path / name, CPU)
        assert network.features_list == ["2048", "logits_unbiased"]
        assert torch.equal(network.fc.weight, weights["fc.weight"])


def test_a_pickle_that_would_run_something_is_not_loaded(tmp_path, installed):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"fc.weight": Evil()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(ValueError, match="no weights that can be read safely"):
            load_inception(tmp_path / name, CPU)


def test_what_is_wrong_is_said(tmp_path, installed, weights, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no weights of the Inception network"):
        load_inception(tmp_path / "none.pth", CPU)
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not hold the weights of torch-fidelity's Inception"):
        load_inception(tmp_path / "other.safetensors", CPU)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="needs a state dictionary"):
        load_inception(tmp_path / "list.pth", CPU)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rcgm\[evaluate\]'"):
        load_inception(tmp_path / "other.safetensors", CPU)
