"""Models on the Hugging Face Hub, by ``owner/name``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: first folders of paths that are never meant as an owner on the Hub, though ``checkpoints/vq-f4`` looks like one
LOCAL_FOLDERS = ('checkpoints', 'configs', 'data', 'work_dirs')


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can be an ``owner/name`` of the Hub, and is not rather a path of this machine."""
    owner, _, model = name.partition('/')
    if not owner or not model or '/' in model or name.startswith(('.', '~')) or Path(model).suffix in ('.pth', '.ckpt'):
        return False
    return owner not in LOCAL_FOLDERS and not Path(owner).is_dir()


def cached(name: str) -> Path | None:
    """The folder of a model that was downloaded before; None if it wasn't."""
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception:  # not there: the library has several classes for that
        return None


def download(name: str, patterns: Sequence[str]) -> Path:
    """Download the files of a model that match ``patterns``; returns the folder.

    Raises:
        ValueError: no network, no such model, or no right to it.
    """
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # each cause has its own class
        raise ValueError(f"'{name}' could not be downloaded from the Hugging Face Hub ({type(error).__name__}). "
                         'Without a network, download it elsewhere and give the folder.') from error


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Upload all of a folder to the model repository ``name``, which is made if it isn't there; returns its address.

    Raises:
        ValueError: no network, no login, or no right to it.
    """
    from huggingface_hub import HfApi
    try:
        address = HfApi().create_repo(name, private=private, exist_ok=True)
        HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message='Upload by slimdiff publish')
    except Exception as error:  # each cause has its own class
        raise ValueError(f"'{name}' could not be uploaded to the Hugging Face Hub ({type(error).__name__}: {error}). "
                         f'{folder} is written. Log in (hf auth login, or set HF_TOKEN) and run the command again, or '
                         f'upload the folder from elsewhere: hf upload {name} {folder}') from error
    return str(address)
