"""A run that is killed at the worst moment goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rcgm.config import load_config
from rcgm.runs import latest_checkpoint
from rcgm.training import train
from tests.support.same_run import assert_same_run

RUN = """
import sys, torch
torch.set_num_threads(1)
from rcgm.cli import main
sys.exit(main(sys.argv[1:]))
"""

KILL_WHILE_WRITING = """
import os, signal, sys, torch
torch.set_num_threads(1)
from rcgm.cli import main
from rcgm.runs import checkpoint
save = checkpoint.dcp.save

def save_half_and_die(content, *, storage_writer, **options):
    save(content, storage_writer=storage_writer, **options)
    if "step_00000010" in str(storage_writer.path):
        path = max(storage_writer.path.glob("*.safetensors"), key=lambda path: path.stat().st_size)
        with open(path, "r+b") as stream:
            stream.truncate(path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.dcp.save = save_half_and_die
sys.exit(main(sys.argv[1:]))
"""


def start(program: str, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        cwd=Path(__file__).parents[3],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_while_a_checkpoint_is_written(tmp_path, tiny_yaml):
    folder = tmp_path / "killed"
    process = start(KILL_WHILE_WRITING, "train", str(tiny_yaml), "--output", str(folder))
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["step_00000005", "unfinished_step_00000010"]

    train(load_config(tiny_yaml), folder, resume=True, show_progress=False)
    train(load_config(tiny_yaml), tmp_path / "straight", show_progress=False)
    assert_same_run(tmp_path / "straight", folder)
    assert not list((folder / "checkpoints").glob("unfinished_*"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_in_the_middle_of_training(tmp_path, tiny_yaml):
    folder = tmp_path / "killed"
    # Far more steps than are made before the kill; the length of a run may change when it goes on.
    process = start(RUN, "train", str(tiny_yaml), "steps=1000000", "--output", str(folder))
    deadline = time.monotonic() + 600
    while latest_checkpoint(folder / "checkpoints") is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL

    reached = int(latest_checkpoint(folder / "checkpoints").name.removeprefix("step_"))
    config = load_config(tiny_yaml, [f"steps={reached + 8}"])
    train(config, folder, resume=True, show_progress=False)
    train(config, tmp_path / "straight", show_progress=False)
    assert_same_run(tmp_path / "straight", folder)
