"""ImageFolder: a user's own images."""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageFile

from slimdiff.datasets.missing import missing_data
from slimdiff.datasets.packed import PackedStrings
from slimdiff.datasets.records import RecordDataset
from slimdiff.progress import Progress
from slimdiff.registry import DATASETS

#: formats that Pillow recognises, but whose pixels it leaves to others: to nobody, or to Ghostscript
UNDECODED = ('MPEG', 'EPS')


@functools.cache
def image_extensions() -> tuple[str, ...]:
    """The endings of file names, '.jpg', ..., of the formats that the installed Pillow decodes."""
    Image.init()
    readers = {name: reader for name, (reader, _) in Image.OPEN.items() if name not in UNDECODED
               and not (isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile))}
    return tuple(sorted(ending for ending, name in Image.registered_extensions().items() if name in readers))


def is_image(name: str) -> bool:
    """Whether a file name is that of an image, and not hidden."""
    return name.lower().endswith(image_extensions()) and not name.startswith('.')


def report_other_files(names: Iterable[str], place: str | Path) -> None:
    """Log how many files are left out because their names are not those of images, by ending."""
    names = list(names)
    if names:
        endings = Counter(os.path.splitext(name)[1].lower() or '(none)' for name in names)
        counts = ', '.join(f'{ending} ({count})' for ending, count in endings.most_common(8))
        print_log(f"Left out {len(names)} files in '{place}', which are not images by the end of their names: {counts}"
                  f"{', ...' if len(endings) > 8 else ''}; such as '{min(names)}'.", logger='current',
                  level=logging.WARNING)


def find_images(root: Path, section: str = 'imagefolder') -> list[str]:
    """Paths (relative, with '/', sorted) of all images at any depth under ``root``; hidden files and folders excepted.

    Links to folders are followed, except into a folder that they lie in.

    Raises:
        ValueError: no such folder (``section`` of the user guide says how to get it), one that cannot be read, or no
            image in it.
    """
    if not root.is_dir():
        raise missing_data(root, 'folder', section)

    def refuse(error: OSError) -> None:
        raise ValueError(f"data_root: the folder '{error.filename}' cannot be read ({error.strerror}), so its images "
                         'would be missing. Change its permissions, or move it out of data_root.') from error

    found, others = [], []
    above: dict[str, tuple] = {str(root): ()}  # device and inode of each folder that a folder lies in
    with Progress(None, 'listing', 'files') as bar:
        for folder, subfolders, files in os.walk(root, onerror=refuse, followlinks=True):
            about = os.stat(folder)
            place, outer = (about.st_dev, about.st_ino), above.pop(folder)
            if place in outer:
                subfolders.clear()
                continue
            subfolders[:] = [name for name in subfolders if not name.startswith('.')]
            above |= {os.path.join(folder, name): (*outer, place) for name in subfolders}
            inside = os.path.relpath(folder, root).replace(os.sep, '/')
            for name in files:
                if not name.startswith('.'):
                    (found if is_image(name) else others).append(name if inside == '.' else f'{inside}/{name}')
            bar.update(len(files))
    if not found:
        raise ValueError(f"data_root: no image in '{root.absolute()}' or its sub-folders. Accepted are files that end "
                         f"in {', '.join(image_extensions())} (upper case too); hidden ones, '.name', don't count.")
    report_other_files(others, root)
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
class ImageFolder(RecordDataset):
    """All images under a folder, at any depth, in sorted order: files of every format that Pillow decodes.

    Other files, but for hidden ones, are counted and named in the log.

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

    def __init__(self, data_root: str, image_size: int = 256, pipeline: Sequence[dict] | None = None,
                 class_from_folder: bool = False, classes: Sequence[str] | None = None, on_error: str = 'raise',
                 seed: int = 0):
        super().__init__(data_root, image_size, pipeline, on_error, seed)
        if classes is not None and not class_from_folder:
            raise ValueError('classes names sub-folders, but class_from_folder is False. Set class_from_folder=True.')
        files = find_images(self.data_root)
        if class_from_folder:
            self.classes, labels = labels_from_folders(files, classes)
            self.labels = np.array(labels, np.int32)
        self.files = PackedStrings(files)
        self.set_length(len(files))
