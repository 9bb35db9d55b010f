"""A run on disk, and the use of a finished one: checkpoints, records, samples, measures, export."""

from rcgm.runs.checkpoint import CheckpointError, latest_checkpoint, read_checkpoint, save_checkpoint
from rcgm.runs.conditions import Captions, DataCaptions
from rcgm.runs.export import export_run
from rcgm.runs.folder import RunFolder
from rcgm.runs.loading import LoadedRun, load_run
from rcgm.runs.prompts import PromptCaptions
from rcgm.runs.sampler import RunSampler

__all__ = [
    "Captions",
    "CheckpointError",
    "DataCaptions",
    "LoadedRun",
    "PromptCaptions",
    "RunFolder",
    "RunSampler",
    "export_run",
    "latest_checkpoint",
    "load_run",
    "read_checkpoint",
    "save_checkpoint",
]
