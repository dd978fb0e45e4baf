"""Checkpoint files: below the models, because a teacher is one."""

from slimdiff.checkpoint.files import (
    CheckpointError,
    CheckpointWriteError,
    atomic_write,
    load_checkpoint,
    save_checkpoint,
)
from slimdiff.checkpoint.json_file import read_json, write_json
from slimdiff.checkpoint.weights import load_weights
from slimdiff.installation import find_path, installation_roots

__all__ = ['CheckpointError', 'CheckpointWriteError', 'atomic_write', 'find_path', 'installation_roots',
           'load_checkpoint', 'load_weights', 'read_json', 'save_checkpoint', 'write_json']
