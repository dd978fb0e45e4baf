"""CocoCaptions: images with several captions each, in COCO's JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimdiff.datasets.image_folder import is_image
from slimdiff.datasets.missing import missing_data
from slimdiff.datasets.packed import PackedStrings
from slimdiff.datasets.records import RecordDataset
from slimdiff.datasets.seeding import hash64
from slimdiff.registry import DATASETS


def read_captions(path: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """File name of each image id, and captions of each image id in the order of their ids.

    Raises:
        ValueError: no JSON, or not of COCO's form.
    """
    try:
        content = json.loads(path.read_bytes())
        names = {image['id']: image['file_name'] for image in content['images']}
        captions: dict[int, list[str]] = {}
        for annotation in sorted(content['annotations'], key=lambda a: a['id']):
            text = ' '.join(annotation['caption'].split())  # a few end in line breaks
            if text:
                captions.setdefault(annotation['image_id'], []).append(text)
    except ValueError as error:
        raise ValueError(f"annotations: '{path}' is not valid JSON, or was cut off ({error}).") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"annotations: '{path}' is not in COCO's form for captions ({type(error).__name__}: {error}): "
                         "'images' of id and file_name, 'annotations' of id, image_id and caption. Take "
                         'captions_*.json, not instances_*.json.') from None
    return names, captions


@DATASETS.register_module()
class CocoCaptions(RecordDataset):
    """Images with captions: ``data_root/<split>/*.jpg`` and ``data_root/annotations/captions_<split>.json``.

    A sample has one ``caption`` (str) of the five or so that its image has: another one in every epoch, a function of
    (seed, k) alone.

    Images are sorted by name. Captions without an image, images of the list without a file and images without a
    caption are an error that counts and names them, or left out and counted with ``on_error='skip'``.

    Args:
        data_root: the folder that holds ``annotations`` and the folders of images.
        split: 'train2017', 'val2017', 'train2014', ...
        caption: 'random', or 'first': always that of the lowest id, for validation.
        image_size, pipeline, on_error, seed: as of :class:`~slimdiff.datasets.image_folder.ImageFolder`.

    Raises:
        ValueError: missing or broken files, or images and captions that do not match.
    """

    section = 'coco'

    def __init__(self, data_root: str, split: str = 'train2017', caption: str = 'random', image_size: int = 256,
                 pipeline: Sequence[dict] | None = None, on_error: str = 'raise', seed: int = 0):
        super().__init__(Path(data_root) / split, image_size, pipeline, on_error, seed)
        if caption not in ('random', 'first'):
            raise ValueError(f"caption must be 'random' or 'first', got {caption!r}.")
        self.caption = caption
        annotations = Path(data_root).expanduser() / 'annotations' / f'captions_{split}.json'
        if not self.data_root.is_dir():
            raise missing_data(self.data_root, 'folder', self.section)
        if not annotations.is_file():
            raise missing_data(annotations, 'file', self.section)
        names, captions = read_captions(annotations)
        with os.scandir(self.data_root) as entries:
            present = {entry.name for entry in entries if is_image(entry.name)}
        listed = set(names.values())
        self.leave_out(PackedStrings(f'image {i}' for i in sorted(set(captions) - set(names))),
                       f"image ids that have captions but are not in the list of images of '{annotations.name}'",
                       'Take the original file')
        self.leave_out(PackedStrings(sorted(listed - present)), f"images that '{annotations.name}' lists but that lack",
                       'Unpack the archive again')
        self.leave_out(PackedStrings(sorted([*(name for i, name in names.items() if i not in captions),
                                             *(present - listed)])),
                       f"images without a caption in '{annotations.name}'", 'Take the annotations of this split')
        kept = sorted((name, i) for i, name in names.items() if i in captions and name in present)
        if not kept:
            raise ValueError(f"No image in '{self.data_root}' has a caption in '{annotations}'. Do they belong "
                             'together?')
        self.files = PackedStrings(name for name, _ in kept)
        self._captions = PackedStrings(text for _, i in kept for text in captions[i])
        self._first = np.cumsum([0, *(len(captions[i]) for _, i in kept)])
        self.set_length(len(kept))

    def captions_of(self, item: int) -> list[str]:
        """All captions of image ``item``."""
        return self._captions[int(self._first[item]):int(self._first[item + 1])]

    def load(self, item: int, k: int) -> dict:
        first, count = int(self._first[item]), int(self._first[item + 1] - self._first[item])
        drawn = 0 if self.caption == 'first' else int(hash64(self.seed, k)[0] % np.uint64(count))
        return dict(super().load(item, k), caption=self._captions[first + drawn])
