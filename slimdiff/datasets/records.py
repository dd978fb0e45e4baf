"""RecordDataset: a list of records, a way to load one, a pipeline. The base of all data sets of files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log
from torch.utils.data import Dataset

from slimdiff.datasets.seeding import isolated_random_state, seed32
from slimdiff.datasets.transforms import LoadImage, PackImage
from slimdiff.registry import TRANSFORMS


class RecordDataset(Dataset):
    """Images by number, from wherever a subclass takes them.

    A subclass calls ``super().__init__`` (which checks the arguments), finds its records, and calls
    :meth:`set_length`. It may define :meth:`load` (what the first transform gets) and :meth:`name_of` (how messages
    call a record); as they stand, the records are :attr:`files` under ``data_root``. Between calls it should hold no
    more than an index: arrays, which forked workers share, not lists of Python objects, which they copy.

    Args:
        data_root: folder or file with the data.
        image_size: side of the square images that come out.
        pipeline: transforms in place of the default ones (short side to ``image_size`` by Lanczos, centre crop,
            [-1, 1]). The first loads the image (only its errors count as an unreadable one), the last is
            :class:`~slimdiff.datasets.transforms.PackImage`. Random ones draw from (seed, k) alone, fresh in every
            epoch, whatever the number of workers.
        on_error: what an unreadable record does. 'raise': a ``ValueError`` that names it. 'skip': the next readable
            one in the order takes its place; logged, once each, and counted in :attr:`skipped`.
        seed: of the random transforms.

    A sample is ``dict(inputs=float32 (3, image_size, image_size) in [-1, 1] RGB[, labels=int][, caption=str])``.

    Raises:
        ValueError: a bad argument, a pipeline that does not end with ``PackImage``; later, an unreadable record, no
            readable one at all, or a pipeline whose output has another size.
    """

    #: An index beyond the length draws other random transforms, of the same images.
    epoch_indexing = True
    #: What :meth:`load` gives the pipeline: the 'path' of a file, the 'bytes' of one, or an 'array' of pixels.
    gives = 'path'
    #: Section of the user guide that says how to get the data.
    section = 'imagefolder'

    def __init__(self, data_root: str | Path, image_size: int = 256, pipeline: Sequence[dict] | None = None,
                 on_error: str = 'raise', seed: int = 0):
        if not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f'image_size must be an integer of at least 1 pixel, got {image_size!r}.')
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        self.data_root = Path(data_root).expanduser()
        self.image_size, self.on_error, self.seed = image_size, on_error, seed
        self.files: Sequence[str] = ()
        self.classes: Sequence[str] = []
        self.labels: np.ndarray | None = None
        self.left_out: Sequence[str] = []
        self.pipeline = [TRANSFORMS.build(step) for step in
                         (self.default_pipeline() if pipeline is None else pipeline)]
        if not (self.pipeline and isinstance(self.pipeline[-1], PackImage)):
            raise ValueError(f"pipeline: the last step of {type(self).__name__} must be dict(type='PackImage'), or a "
                             'class derived from it: it makes the sample of [-1, 1] that a model takes.')
        first = self.pipeline[0]
        if self.gives == 'bytes' and isinstance(first, LoadImageFromFile) and not isinstance(first, LoadImage):
            raise ValueError(f'pipeline: the images of {type(self).__name__} come as bytes out of an archive, which '
                             f"{type(first).__name__} does not read. Let it start with dict(type='LoadImage').")

    def default_pipeline(self) -> list[dict]:
        """VQGAN's preparation (Esser et al. 2021)."""
        steps = [dict(type='ResizeShortSide', size=self.image_size),
                 dict(type='CenterCrop', crop_size=self.image_size),
                 dict(type='PackImage')]
        return steps if self.gives == 'array' else [dict(type='LoadImage'), *steps]

    def set_length(self, length: int) -> None:
        """Say how many records there are; a subclass calls it when it knows."""
        # In shared memory, so that the main process counts what its loader's workers skip.
        self._unreadable = torch.zeros(length, dtype=torch.bool).share_memory_()

    def leave_out(self, names: Sequence[str], what: str, remedy: str) -> None:
        """Deal with records that the index shows to be broken: an error, or counted, as ``on_error`` says.

        Raises:
            ValueError: there are some, and ``on_error`` is 'raise'.
        """
        if not len(names):
            return
        some = ', '.join(names[i] for i in range(min(3, len(names)))) + (', ...' if len(names) > 3 else '')
        if self.on_error == 'raise':
            raise ValueError(f"{len(names)} {what} in '{self.data_root}': {some}. {remedy}, or set on_error='skip' to "
                             'do without them.')
        print_log(f"Left out {len(names)} {what} in '{self.data_root}': {some}.", logger='current',
                  level=logging.WARNING)
        self.left_out = names if not len(self.left_out) else [*self.left_out, *names]

    # ---- what subclasses define ------------------------------------------------------------------------------------

    def name_of(self, item: int) -> str:
        """How messages call record ``item``."""
        return str(self.data_root / self.files[item])

    def load(self, item: int, k: int) -> dict:
        """What the pipeline's first step gets of record ``item``; ``k`` is the index asked for, epochs included."""
        results = dict(img_path=self.name_of(item))
        if self.labels is not None:
            results['gt_label'] = int(self.labels[item])
        return results

    # ---- what they inherit -----------------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def metainfo(self) -> dict:
        return dict(dataset=type(self).__name__, classes=self.classes, image_size=self.image_size,
                    data_root=str(self.data_root))

    @property
    def skipped(self) -> int:
        """Number of records left out, and of unreadable ones met so far by this process and its loader's workers."""
        return len(self.left_out) + int(self._unreadable.sum())

    @property
    def skipped_files(self) -> list[str]:
        """Their names: paths under ``data_root`` where the records are files."""
        unreadable = self._unreadable.nonzero().flatten().tolist()
        return [*self.left_out, *(self.files[i] if len(self.files) else self.name_of(i) for i in unreadable)]

    def __len__(self) -> int:
        return len(self._unreadable)

    def __iter__(self) -> Iterator[dict]:
        # Python would otherwise index 0, 1, 2, ... until an IndexError, which indices beyond `len` don't raise.
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> dict:
        if k < 0:
            raise IndexError(f'An image index must be at least 0, got {k}.')
        first = k % len(self)
        with isolated_random_state(seed32(self.seed, k)):
            for item in chain(range(first, len(self)), range(first)):
                results = self._read(item, k)
                if results is not None:
                    return self._prepare(results, item)
        raise ValueError(f"None of the {len(self)} images in '{self.data_root}' can be read; the log names the causes.")

    def _read(self, item: int, k: int) -> dict | None:
        """Load a record with the pipeline's first step; None if it is unreadable and may be skipped."""
        if self._unreadable[item]:
            return None
        try:
            results = self.load(item, k)
            return results if self.gives == 'array' else self.pipeline[0](results)
        except MemoryError:
            raise
        except Exception as error:  # pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            cause = f'{type(error).__name__}: {error}'
            name = self.name_of(item)
            if self.on_error == 'raise':
                raise ValueError(f"Cannot read image '{name}' ({cause}). Repair or remove it, or set on_error='skip' "
                                 'in the dataset to go on with the next one.') from error
            self._unreadable[item] = True
            print_log(f"Skipped unreadable image '{name}' ({cause}); the next readable one takes its place. "
                      f'{self.skipped} of {len(self)} so far.', logger='current', level=logging.WARNING)
            return None

    def _prepare(self, results: dict, item: int) -> dict:
        """Run the other steps. An error here is the pipeline's, not the record's, and so is never skipped."""
        for step in self.pipeline[self.gives != 'array':]:
            results = step(results)
        expected = (3, self.image_size, self.image_size)
        shape = tuple(results['inputs'].shape)
        if shape != expected:
            raise ValueError(f"pipeline: '{self.name_of(item)}' comes out as {shape}, but image_size="
                             f'{self.image_size} says {expected}. Let the pipeline crop or resize to that size.')
        return results
