"""Find a file that came with slimdiff from any working directory.

Imports nothing heavy: a command looks for its files before it waits for PyTorch.
"""

from __future__ import annotations

import dis
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def raised_here(error: BaseException) -> bool:
    """Whether slimdiff itself raised ``error``, with a ``raise`` statement: on purpose."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    own = (PACKAGE, PACKAGE.parent / 'studies')  # which a checkout has
    return (any(folder in Path(code.co_filename).resolve().parents for folder in own)
            and dis.opname[code.co_code[trace.tb_lasti]] == 'RAISE_VARARGS')


def installation_roots() -> list[Path]:
    """Folders that hold the ``configs/`` of this installation: the checkout of an editable install, or the wheel's."""
    checkout = PACKAGE.parent
    candidates = [checkout] if (checkout / 'setup.py').is_file() else []
    return [root for root in (*candidates, PACKAGE / '.mim') if (root / 'configs').is_dir()]


def find_path(path: str | Path) -> Path | None:
    """``path`` as it stands, else below the folders of this installation (``configs/ldm/...``); None if nowhere."""
    path = Path(path).expanduser()
    if path.exists():
        return path
    if not path.is_absolute():
        for root in installation_roots():
            if (root / path).exists():
                return root / path
    return None


def shipped_weights(config: Path) -> Path | None:
    """The weights that came with a config of slimdiff, such as ``configs/sd/fashion_mnist_weights``; None without."""
    folder = config.with_name(f'{config.stem}_weights')
    return folder if (folder / 'unet').is_dir() else None


def zoo_weights(name: str) -> Path | None:
    """The weights of the model that came with slimdiff under this name; None if there is none."""
    found = (shipped_weights(root / 'configs' / f'{name}.py') for root in installation_roots())
    return next(filter(None, found), None)


def zoo() -> list[str]:
    """Names of the models that came with their weights, such as ``sd/fashion_mnist``."""
    found = {folder.relative_to(root / 'configs').as_posix().removesuffix('_weights')
             for root in installation_roots() for folder in (root / 'configs').glob('*/*_weights')}
    return sorted(found)
