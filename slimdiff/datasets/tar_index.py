"""Where the samples of a webdataset tar lie."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from slimdiff.datasets.image_folder import image_extensions
from slimdiff.optional import optional_package

#: A sample: where its image and its caption lie in the tar. A caption of size 0 is none; an image of size 0 says that
#: the image or caption at ``image_offset`` is of no sample.
SAMPLE = np.dtype([('image_offset', '<u8'), ('image_size', '<u4'), ('caption_offset', '<u8'), ('caption_size', '<u4')])
#: which image is taken of a sample that has several; other formats come after these
PREFERRED = ('jpg', 'jpeg', 'png', 'webp')
BLOCK = tarfile.BLOCKSIZE


def expand_shards(pattern: str) -> list[str]:
    """``{00000..00012}.tar`` as thirteen names, by webdataset's rules."""
    return optional_package('webdataset.shardlists', 'datasets', 'LaionTars').expand_urls(pattern)


def tar_members(path: Path, problems: list[str]) -> Iterator[tuple[str, int, int]]:
    """Name, offset of the content and size of each file in a tar, up to where it is damaged.

    Python's ``tarfile`` takes a damaged header that is not the first, or a block of zeros, for the end, and does not
    look whether the last member is all there, or whether the tar was finished. Here each of these is added to
    ``problems``.
    """
    length, last = path.stat().st_size, 'its beginning'
    with open(path, 'rb') as file:
        try:
            with tarfile.open(fileobj=file, mode='r:') as archive:
                for member in archive:
                    last = member.name
                    if member.offset_data + member.size > length:
                        problems.append(f"cut off in '{last}'")
                        return
                    if member.isreg():
                        yield member.name, member.offset_data, member.size
                end = archive.offset
        except tarfile.TarError as error:
            problems.append(f"damaged after '{last}' ({error})" if last != 'its beginning' else f'no tar ({error})')
            return
        if end >= length:
            problems.append(f"cut off after '{last}' (the mark of its end is missing)")
        elif not rest_is_zero(file, end):
            problems.append(f"damaged after '{last}' (no header at byte {end})")


def rest_is_zero(file: BinaryIO, start: int) -> bool:
    """Whether nothing but zeros follows in a file: a tar ends in two blocks or more of them."""
    file.seek(start)
    return all(part.count(0) == len(part) for part in iter(lambda: file.read(1 << 20), b''))


def index_tar(path: Path, caption: str) -> tuple[np.ndarray, list[str]]:
    """The samples of a tar as an array of :data:`SAMPLE`, and what is wrong with the tar.

    Neighbouring files of one name up to the first dot are a sample (webdataset's rule), and so are an image and a
    caption of one name up to the last dot. Images and captions that are of no sample then, such as a second image, come
    last.

    Args:
        caption: suffix of the file with the caption, 'txt' or 'json'.
    """
    grouping = optional_package('webdataset.tariterators', 'datasets', 'LaionTars')
    images = tuple(dict.fromkeys((*PREFERRED, *(ending[1:] for ending in image_extensions()))))
    problems: list[str] = []
    members = list(tar_members(path, problems))
    suffixes: dict[str, set[str]] = {}  # after the last dot, of each name up to it
    for name, *_ in members:
        stem, _, suffix = name.rpartition('.')
        suffixes.setdefault(stem, set()).add(suffix.lower())
    pairs = {stem for stem, found in suffixes.items() if caption in found and found.intersection(images)}

    def files() -> Iterator[dict[str, Any]]:
        for name, offset, size in members:
            stem, _, suffix = name.rpartition('.')
            if stem in pairs:  # no dot in its base, so that webdataset cuts the name at the last one
                folder, slash, base = stem.rpartition('/')
                name = f'{folder}{slash}{base.replace(".", chr(0))}.{suffix}'
            yield dict(fname=name, data=(offset, size), __url__=str(path))

    def note(error: Exception) -> bool:
        problems.append(str(error.args[0]))
        return True  # go on

    samples = []
    for sample in grouping.group_by_keys(files(), suffixes={*images, caption}, handler=note):
        image = next((sample[suffix] for suffix in images if suffix in sample), None)
        if image is not None:
            samples.append((*image, *sample.get(caption, (0, 0))))
    used = {offset for sample in samples for offset in sample[::2]}
    endings = tuple(f'.{suffix}' for suffix in (*images, caption))
    samples += [(offset, 0, 0, 0) for name, offset, _ in members if offset not in used
                and name.lower().endswith(endings) and not name.rpartition('/')[2].startswith('.')]
    return np.array(samples, SAMPLE), problems


def name_before(header: bytes) -> str:
    """The name in the header block that precedes a file's content (cut after 100 characters)."""
    return header[:100].split(b'\0', 1)[0].decode(errors='replace')
