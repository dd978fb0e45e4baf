"""ImageZip: the images in a zip archive, as FFHQ, CelebA-HQ and AFHQ are handed around."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimdiff.datasets.image_folder import image_extensions, is_image, labels_from_folders, report_other_files
from slimdiff.datasets.missing import missing_data
from slimdiff.datasets.packed import PackedStrings
from slimdiff.datasets.records import RecordDataset
from slimdiff.datasets.zip_index import ZipIndex
from slimdiff.registry import DATASETS

LABELS_FILE = 'dataset.json'


def image_members(archive: ZipIndex, folder: str = '') -> list[int]:
    """Numbers of the images under ``folder`` in an archive, sorted by name.

    Raises:
        ValueError: there is none.
    """
    found, others = [], []
    for item, name in enumerate(archive.names):
        base = name.rsplit('/', 1)[-1]
        if name.startswith(folder) and not name.startswith('__MACOSX/') and not base.startswith('.'):
            if is_image(base):
                found.append((name, item))
            elif name != LABELS_FILE:
                others.append(name)
    if not found:
        tops = sorted({name.split('/', 1)[0] + '/' for name in archive.names if '/' in name})[:5]
        place = f"under '{folder}' in '{archive.path}'" if folder else f"in '{archive.path}'"
        raise ValueError(f'data_root: no image {place}, which holds {len(archive)} files'
                         f'{" in " + ", ".join(tops) if tops else ""}. Accepted are names that end in '
                         f'{", ".join(image_extensions())}.')
    report_other_files(others, archive.path)
    return [item for _, item in sorted(found)]


def read_labels_file(archive: ZipIndex) -> dict | None:
    """The content of a StyleGAN archive's ``dataset.json``; None if there is none."""
    item = next((item for item, name in enumerate(archive.names) if name == LABELS_FILE), None)
    try:
        return None if item is None else json.loads(archive.read(item))
    except ValueError as error:
        raise ValueError(f"data_root: '{LABELS_FILE}' in '{archive.path}' is not valid JSON ({error}).") from None


def stylegan_labels(content: dict | None, names: Sequence[str], path: Path) -> list[int | None]:
    """The label of each image out of the ``dataset.json`` of a StyleGAN archive; None for images it leaves out.

    It holds ``{"labels": [["00000/img00000000.png", 6], ...]}``, or ``{"labels": null}`` where there are no classes.

    Raises:
        ValueError: no such file or no labels in it, or labels that are not class numbers.
    """
    pairs = content.get('labels') if isinstance(content, dict) else None
    if not pairs:
        state = 'holds no labels' if content is not None else 'is not in it'
        raise ValueError(f"class_from_json=True needs the labels of '{LABELS_FILE}' at the top of '{path}', but that "
                         f'{state}. Set class_from_json=False, or take the classes from folders (class_from_folder).')
    label_of = dict(pairs)
    labels = [label_of.get(name) for name in names]
    wrong = next((i for i, x in enumerate(labels) if x is not None and (not isinstance(x, int) or x < 0)), None)
    if wrong is not None:
        raise ValueError(f"class_from_json: the label of '{names[wrong]}' in '{path}' is {str(labels[wrong])[:60]}, "
                         'not a class number (an integer of at least 0).')
    return labels


@DATASETS.register_module()
class ImageZip(RecordDataset):
    """The images in a zip archive, at any depth, sorted by name, read without unpacking it.

    Made for the archives of FFHQ, CelebA-HQ and AFHQ, and for those that StyleGAN's ``dataset_tool.py`` writes.

    Args:
        data_root: the archive; its members must be stored or deflated.
        folder: only what lies under this folder of the archive.
        part: only the images [start, stop) of the sorted ones; FFHQ's training set is the first 60,000.
        class_from_folder: take the first sub-folder (under ``folder``) as the class.
        class_from_json: take the class from the ``dataset.json`` of a StyleGAN archive.
        classes: names of the classes in the order of their labels.
        num_classes: labels must lie below; by default any may come. (Label ``num_classes`` is a model's null class.)
        image_size, pipeline, on_error, seed: as of :class:`~slimdiff.datasets.image_folder.ImageFolder`.

    Raises:
        ValueError: no such archive, a damaged one, no image in it, missing labels or labels out of range.
    """

    gives = 'bytes'
    section = 'ffhq-celeba-hq-afhq'

    def __init__(self, data_root: str, image_size: int = 256, pipeline: Sequence[dict] | None = None, folder: str = '',
                 part: Sequence[int] | None = None, class_from_folder: bool = False, class_from_json: bool = False,
                 classes: Sequence[str] | None = None, num_classes: int | None = None, on_error: str = 'raise',
                 seed: int = 0):
        super().__init__(data_root, image_size, pipeline, on_error, seed)
        if class_from_folder and class_from_json:
            raise ValueError('class_from_folder and class_from_json are both set. Choose one source of the classes.')
        if (classes is not None or num_classes is not None) and not (class_from_folder or class_from_json):
            raise ValueError('classes and num_classes need a source of the classes: set class_from_folder=True or '
                             'class_from_json=True.')
        if self.data_root.is_dir():
            raise ValueError(f"data_root: '{self.data_root}' is a folder. ImageZip reads a .zip file; for a folder of "
                             "images take dict(type='ImageFolder').")
        if not self.data_root.is_file():
            raise missing_data(self.data_root, 'zip archive', self.section)
        folder = folder.strip('/') + '/' if folder.strip('/') else ''
        archive = ZipIndex(self.data_root)
        items = image_members(archive, folder)
        if part is not None:
            start, stop = part
            if not 0 <= start < stop <= len(items):
                raise ValueError(f"part={tuple(part)} must be (start, stop) with 0 <= start < stop <= {len(items)}: "
                                 f"'{self.data_root}' has so many images.")
            items = items[start:stop]
        if class_from_json:
            items = self._label_from_json(archive, items, classes, num_classes)
        elif class_from_folder:
            inside = [archive.names[item][len(folder):] for item in items]
            self.classes, labels = labels_from_folders(inside, classes)
            self.labels = np.array(labels, np.int32)
        archive.keep(items)
        self._zip, self.files = archive, archive.names
        if self.labels is not None:
            self._check_labels(num_classes or len(self.classes))
        self.set_length(len(items))

    def _label_from_json(self, archive: ZipIndex, items: list[int], classes: Sequence[str] | None,
                         num_classes: int | None) -> list[int]:
        """Set labels and classes from ``dataset.json``; returns the items that have a label."""
        names = [archive.names[item] for item in items]
        labels = stylegan_labels(read_labels_file(archive), names, self.data_root)
        known = [(item, label) for item, label in zip(items, labels) if label is not None]
        if not known:
            raise ValueError(f"class_from_json: '{LABELS_FILE}' in '{self.data_root}' names none of its images.")
        self.leave_out(PackedStrings(name for name, label in zip(names, labels) if label is None),
                       f"images without a label in '{LABELS_FILE}'", 'Complete it')
        self.labels = np.array([label for _, label in known], np.int32)
        self.classes = list(classes) if classes is not None else \
            [str(label) for label in range(num_classes or int(self.labels.max()) + 1)]
        return [item for item, _ in known]

    def _check_labels(self, count: int) -> None:
        worst = int(self.labels.argmax())
        if self.labels[worst] >= count:
            raise ValueError(f"Label out of range: '{self.files[worst]}' in '{self.data_root}' has label "
                             f'{self.labels[worst]}, but there are {count} classes: labels are 0 to {count - 1}, and '
                             f'{count} is the null class of a model with num_classes={count}. Correct num_classes, or '
                             'the labels.')

    def load(self, item: int, k: int) -> dict:
        return dict(super().load(item, k), img_bytes=self._zip.read(item))
