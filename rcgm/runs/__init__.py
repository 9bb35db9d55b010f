"""A run on disk and what is done with a finished one: checkpoints, records, samples, measures, export."""

from rcgm.runs.checkpoint import CheckpointError, latest_checkpoint, read_checkpoint, save_checkpoint
from rcgm.runs.export import export_run
from rcgm.runs.folder import RunFolder
from rcgm.runs.loading import LoadedRun, load_run

__all__ = [
    "CheckpointError",
    "LoadedRun",
    "RunFolder",
    "export_run",
    "latest_checkpoint",
    "load_run",
    "read_checkpoint",
    "save_checkpoint",
]
