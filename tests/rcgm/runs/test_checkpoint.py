import errno
import json
import traceback

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from rcgm.runs import checkpoint as module
from rcgm.runs import checkpoint_state
from rcgm.runs.checkpoint import (
    CheckpointError,
    find_checkpoints,
    latest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    snapshot,
)

TENSORS = {
    "student": {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.5, float("inf")])},
    "ema": {"a.weight": torch.ones(2, 3).bfloat16(), "steps": torch.tensor(3)},
    "empty": {},
}
STATE = {"decay": 0.1 + 0.2, "losses": [1e-300, 1 / 3], "name": "x"}


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path, 7, TENSORS, STATE, keep=2)


def test_everything_comes_back_exactly(saved):
    content = read_checkpoint(saved)
    assert saved.name == "step_00000007"
    assert content.step == 7
    assert content.state == STATE
    assert set(content.tensors) == {"student", "ema"}
    for group, named in content.tensors.items():
        assert set(named) == set(TENSORS[group])
        for name, tensor in named.items():
            assert tensor.dtype == TENSORS[group][name].dtype
            assert torch.equal(tensor, TENSORS[group][name])


def test_tensors_that_share_memory_are_saved(tmp_path):
    shared = torch.arange(4.0)
    path = save_checkpoint(tmp_path, 1, snapshot({"student": {"a": shared, "b": shared[1:]}}), {}, keep=1)
    assert torch.equal(read_checkpoint(path).tensors["student"]["b"], shared[1:])


def test_keeps_the_newest(tmp_path):
    for step in (1, 2, 10, 3):
        save_checkpoint(tmp_path, step, TENSORS, STATE, keep=2)
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step_00000003", "step_00000010"]
    assert latest_checkpoint(tmp_path).name == "step_00000010"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000003", "step_00000010"]


def test_no_folder_holds_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_a_crash_while_writing_leaves_no_checkpoint_and_no_obstacle(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, TENSORS, STATE, keep=2)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", crash)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, 2, TENSORS, STATE, keep=2)
    assert latest_checkpoint(tmp_path).name == "step_00000001"
    save_checkpoint(tmp_path, 2, TENSORS, STATE, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]


def test_a_crash_while_deleting_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, TENSORS, STATE, keep=1)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, 2, TENSORS, STATE, keep=1)
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step_00000002"]
    read_checkpoint(latest_checkpoint(tmp_path))


@pytest.mark.parametrize("name", ["student.safetensors", "state.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}' is missing"):
        read_checkpoint(saved)


@pytest.mark.parametrize("name", ["student.safetensors", "ema.safetensors", "state.json"])
@pytest.mark.parametrize("length", [0, 1, 0.5])
def test_a_file_cut_short_is_named(saved, name, length):
    path = saved / name
    content = path.read_bytes()
    path.write_bytes(content[: length if isinstance(length, int) else len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{name}' is damaged"):
        read_checkpoint(saved)


@pytest.mark.parametrize("name", ["student.safetensors", "state.json"])
def test_a_changed_byte_is_noticed(saved, name):
    path = saved / name
    content = bytearray(path.read_bytes())
    position = content.index(b"3333") if name == "state.json" else len(content) - 5
    content[position] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=f"{name}' is damaged"):
        read_checkpoint(saved)


def test_another_format_is_refused(saved, monkeypatch):
    monkeypatch.setattr(checkpoint_state, "FORMAT", 3)
    with pytest.raises(CheckpointError, match="has format 2; this version reads 3"):
        read_checkpoint(saved)


def test_json_of_another_kind_is_refused(saved):
    (saved / "state.json").write_text(json.dumps([1, 2]))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(saved)


def test_keep_must_leave_one(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        save_checkpoint(tmp_path, 1, TENSORS, STATE, keep=0)


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, monkeypatch):
    def full(*arguments, **options):
        cause = OSError(errno.ENOSPC, "No space left on device")
        raise CheckpointException("save", {0: (cause, traceback.StackSummary())})

    monkeypatch.setattr(module.dcp, "save", full)
    with pytest.raises(OSError, match="unfinished_step_00000001") as raised:
        save_checkpoint(tmp_path, 1, TENSORS, STATE, keep=1)
    assert raised.value.errno == errno.ENOSPC


def rewrite_state(path, change):
    """Change the content of state.json, and give it the SHA-256 that goes with it."""
    content = json.loads((path / "state.json").read_text())
    del content["sha256"]
    change(content)
    content["sha256"] = checkpoint_state.hash_of_content(content)
    (path / "state.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("format"), "has format None; this version reads 2"),
        (lambda content: content.pop("step"), "'step' is missing"),
        (lambda content: content.update(step="7"), "'step' is '7'"),
        (lambda content: content.update(step=True), "'step' is True"),
        (lambda content: content.update(step=-1), "'step' is -1"),
        (lambda content: content.pop("files"), "'files' is missing"),
        (lambda content: content.update(files=[]), r"'files' is \[\]"),
        (lambda content: content.update(files={}), "it lists no files"),
        (lambda content: content["files"].update({"../x.safetensors": {}}), "'../x.safetensors' is no name of a file"),
        (lambda content: content["files"].update({"ema.safetensors": 3}), "the size or the SHA-256 of 'ema.safet"),
        (lambda content: content.update(state=None), "'state' is None"),
    ],
)
def test_a_damaged_state_names_the_file_and_the_entry(saved, change, message):
    rewrite_state(saved, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_checkpoint(saved)
    assert str(saved / "state.json") in str(raised.value)


def test_values_are_asked_for_by_name_and_type(saved):
    content = read_checkpoint(saved)
    assert content.value("name", str) == "x"
    assert content.value("decay", float) == STATE["decay"]
    with pytest.raises(CheckpointError, match=r"state\.json' is damaged: 'seconds' is missing"):
        content.value("seconds", float)
    with pytest.raises(CheckpointError, match=r"state\.json' is damaged: 'name' is 'x'"):
        content.value("name", float)


def test_files_of_other_groups_need_not_be_there(saved):
    (saved / "student.safetensors").unlink()
    (saved / "stray.safetensors").write_bytes(b"no tensors")
    content = read_checkpoint(saved, groups=["ema"])
    assert set(content.tensors) == {"ema"}
    assert torch.equal(content.read("ema")["a.weight"], TENSORS["ema"]["a.weight"])
    with pytest.raises(CheckpointError, match=r"student\.safetensors' is missing"):
        read_checkpoint(saved)
