"""ImageNet: ILSVRC 2012 in folders of synsets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimdiff.datasets.image_folder import find_images, is_image
from slimdiff.datasets.missing import missing_data
from slimdiff.datasets.packed import PackedStrings
from slimdiff.datasets.records import RecordDataset
from slimdiff.registry import DATASETS

SYNSET = re.compile(r'n\d{8}')


def read_synsets(path: str | Path) -> list[str]:
    """The first word of each line: ``n01440764``, also of ``n01440764 tench, Tinca tinca``.

    Raises:
        ValueError: no such file, a line that does not start with a synset, or a synset twice.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise missing_data(path, 'list of synsets', 'imagenet', argument='classes')
    names = [line.split()[0] for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    wrong = next((name for name in names if not SYNSET.fullmatch(name)), None)
    if wrong is not None:
        raise ValueError(f"classes: a line of '{path}' starts with '{wrong}', which is no synset such as n01440764.")
    return names


@DATASETS.register_module()
class ImageNet(RecordDataset):
    """ImageNet (ILSVRC 2012): ``data_root/split/n01440764/*.JPEG``, the label from the folder.

    Labels are 0 to 999 in the sorted order of the synsets, as everywhere; 1000 is left for a model's null class.

    Args:
        data_root: the folder that holds ``train`` and ``val``.
        split: name of one of its folders.
        classes: synsets in the order of their labels, or the path of a file that lists them, a line each (the
            ``LOC_synset_mapping.txt`` of Kaggle). By default the folders, sorted.
        num_classes: as many classes there must be; None for any number. A subset of the folders needs ``classes``, so
            that the labels stay, or another ``num_classes``.
        image_size, pipeline, on_error, seed: as of :class:`~slimdiff.datasets.image_folder.ImageFolder`.

    Raises:
        ValueError: no such folder, images outside class folders (the validation images as they come), folders that are
            no class, or another number of classes.
    """

    section = 'imagenet'

    def __init__(self, data_root: str, split: str = 'train', image_size: int = 256,
                 pipeline: Sequence[dict] | None = None, classes: Sequence[str] | str | None = None,
                 num_classes: int | None = 1000, on_error: str = 'raise', seed: int = 0):
        super().__init__(Path(data_root) / split, image_size, pipeline, on_error, seed)
        root = self.data_root
        if not root.is_dir():
            raise missing_data(root, 'folder', self.section)
        entries = [entry for entry in root.iterdir() if not entry.name.startswith('.')]
        folders = sorted(entry.name for entry in entries if entry.is_dir())
        loose = sorted(entry.name for entry in entries if is_image(entry.name) and entry.is_file())
        if loose:
            raise ValueError(f"data_root: {len(loose)} images lie directly in '{root}', such as {loose[0]}, not in "
                             'folders of their synset. The validation images come so; '
                             f'docs/en/user_guides/datasets.md#{self.section} says how to sort them.')
        if classes is None:
            names = folders
        else:
            names = read_synsets(classes) if isinstance(classes, (str, Path)) else list(classes)
        doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if doubled:
            raise ValueError(f'classes: {", ".join(doubled[:5])} stand there twice; each class has one label.')
        known = set(names) if classes is not None else \
            {name for name in folders if num_classes is None or SYNSET.fullmatch(name)}
        strange = [name for name in folders if name not in known]
        if strange:
            raise ValueError(f"Label out of range: {len(strange)} folders of '{root}' are not classes: "
                             f'{", ".join(strange[:5])}. Move them out, or name all classes with `classes`.')
        if num_classes is not None and len(names) != num_classes:
            raise ValueError(f"'{root}' has {len(names)} classes instead of {num_classes}, so labels would be wrong "
                             f'(they are 0 to {num_classes - 1}; {num_classes} is reserved for the null class). '
                             'Complete the folders; for a subset give `classes` (all of them, in order), or '
                             f'num_classes={len(names)} here and in the model.')
        label_of = {name: label for label, name in enumerate(names)}
        files = find_images(root, self.section)
        self.classes = names
        self.labels = np.array([label_of[name.split('/', 1)[0]] for name in files], np.int32)
        self.files = PackedStrings(files)
        self.set_length(len(files))
