"""ImageFolder: a user's own images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch.utils.data import Dataset

from slimdiff.datasets.seeding import isolated_random_state, seed32
from slimdiff.registry import DATASETS, TRANSFORMS

EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')


def find_images(root: Path) -> list[str]:
    """Paths (relative, with '/', sorted) of all images at any depth under ``root``; hidden files and folders excepted.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise ValueError(f"data_root: there is no folder '{root}' (looked at {root.absolute()}).")
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith('.')]
        found += [Path(folder, name).relative_to(root).as_posix() for name in files
                  if name.lower().endswith(EXTENSIONS) and not name.startswith('.')]
    if not found:
        raise ValueError(f"data_root: no image in '{root.absolute()}' or its sub-folders. Accepted are files that end "
                         f"in {', '.join(EXTENSIONS)} (upper case too); hidden ones, '.name', don't count.")
    return sorted(found)


def labels_from_folders(files: Sequence[str], classes: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """Class names and a label for each file, from the first folder of its path.

    Raises:
        ValueError: an image that lies in no sub-folder, or in one that ``classes`` does not name.
    """
    loose = [name for name in files if '/' not in name]
    if loose:
        raise ValueError(f'class_from_folder=True needs every image in a sub-folder that names its class; {len(loose)} '
                         f"lie directly in data_root, the first is '{loose[0]}'. Move them, or set "
                         'class_from_folder=False.')
    folders = [name.split('/', 1)[0] for name in files]
    names = sorted(set(folders)) if classes is None else list(classes)
    label_of = {name: label for label, name in enumerate(names)}
    unknown = sorted(set(folders) - set(names))
    if unknown:
        raise ValueError(f'Label out of range: the sub-folders {unknown} are not among the {len(names)} `classes` '
                         f'{names}. Add them to `classes`, or move them out of data_root.')
    return names, [label_of[folder] for folder in folders]


@DATASETS.register_module()
class ImageFolder(Dataset):
    """All images under a folder, at any depth, in sorted order.

    By default prepared as VQGAN's data (Esser et al. 2021): short side to ``image_size``, centre crop, [-1, 1], no
    flip; resized by Lanczos.

    Args:
        data_root: the folder.
        image_size: side of the square images that come out.
        pipeline: mmcv transforms in place of the default ones. The first loads ``img_path`` (only its errors count as
            an unreadable image), the last is :class:`~slimdiff.datasets.transforms.PackImage`. Random ones, such as
            ``dict(type='RandomFlip', prob=0.5)``, draw from (seed, k) alone, fresh in every epoch
            (``epoch_indexing``), whatever the number of workers.
        class_from_folder: take the first sub-folder of a path as its class; without it samples have no ``labels``.
        classes: names of the classes in the order of their labels, if not sorted.
        on_error: what an unreadable image does. 'raise': a ``ValueError`` that names it. 'skip': the next readable one
            in the order takes its place; logged, once each, and counted in :attr:`skipped`.
        seed: of the random transforms.

    A sample is ``dict(inputs=float32 (3, image_size, image_size) in [-1, 1] RGB[, labels=int])``.

    Raises:
        ValueError: no such folder, no image in it, a bad argument; later, an unreadable image, no readable one at
            all, or a pipeline whose output has another size.
    """

    epoch_indexing = True

    def __init__(self, data_root: str, image_size: int = 256, pipeline: Sequence[dict] | None = None,
                 class_from_folder: bool = False, classes: Sequence[str] | None = None, on_error: str = 'raise',
                 seed: int = 0):
        if not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f'image_size must be an integer of at least 1 pixel, got {image_size!r}.')
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        if classes is not None and not class_from_folder:
            raise ValueError('classes names sub-folders, but class_from_folder is False. Set class_from_folder=True.')
        self.data_root = Path(data_root).expanduser()
        self.image_size, self.on_error, self.seed = image_size, on_error, seed
        self.files = find_images(self.data_root)
        self.classes, self.labels = labels_from_folders(self.files, classes) if class_from_folder else ([], None)
        steps = pipeline if pipeline is not None else [
            dict(type='LoadImage'),
            dict(type='ResizeShortSide', size=image_size),
            dict(type='CenterCrop', crop_size=image_size),
            dict(type='PackImage'),
        ]
        self.pipeline = [TRANSFORMS.build(step) for step in steps]
        # In shared memory, so that the main process counts what its loader's workers skip.
        self._unreadable = torch.zeros(len(self.files), dtype=torch.bool).share_memory_()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def metainfo(self) -> dict:
        return dict(dataset='ImageFolder', classes=self.classes, image_size=self.image_size,
                    data_root=str(self.data_root))

    @property
    def skipped(self) -> int:
        """Number of unreadable images met so far, by this process and its loader's workers."""
        return int(self._unreadable.sum())

    @property
    def skipped_files(self) -> list[str]:
        """Their paths under ``data_root``."""
        return [self.files[i] for i in self._unreadable.nonzero().flatten().tolist()]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[dict]:
        # Python would otherwise index 0, 1, 2, ... until an IndexError, which indices beyond `len` don't raise.
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> dict:
        if k < 0:
            raise IndexError(f'An image index must be at least 0, got {k}.')
        first = k % len(self)
        with isolated_random_state(seed32(self.seed, k)):
            for item in [*range(first, len(self)), *range(first)]:
                results = self._read(item)
                if results is not None:
                    return self._prepare(results)
        raise ValueError(f"None of the {len(self)} images in '{self.data_root}' can be read; the log names the causes.")

    def _read(self, item: int) -> dict | None:
        """Run the loading step, the pipeline's first, on a file; None if it is unreadable and may be skipped."""
        if self._unreadable[item]:
            return None
        path = self.data_root / self.files[item]
        results = dict(img_path=str(path))
        if self.labels is not None:
            results['gt_label'] = self.labels[item]
        try:
            return self.pipeline[0](results)
        except MemoryError:
            raise
        except Exception as error:  # pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            cause = f'{type(error).__name__}: {error}'
            if self.on_error == 'raise':
                raise ValueError(f"Cannot read image '{path}' ({cause}). Repair or remove it, or set on_error='skip' "
                                 'in the dataset to go on with the next one.') from error
            self._unreadable[item] = True
            print_log(f"Skipped unreadable image '{path}' ({cause}); the next readable one takes its place. "
                      f'{self.skipped} of {len(self)} so far.', logger='current', level=logging.WARNING)
            return None

    def _prepare(self, results: dict) -> dict:
        """Run the other steps. An error here is the pipeline's, not the file's, and so is never skipped."""
        path = results['img_path']
        for step in self.pipeline[1:]:
            results = step(results)
        expected = (3, self.image_size, self.image_size)
        shape = tuple(results['inputs'].shape)
        if shape != expected:
            raise ValueError(f"pipeline: '{path}' comes out as {shape}, but image_size={self.image_size} says "
                             f'{expected}. Let the pipeline crop or resize to that size.')
        return results
