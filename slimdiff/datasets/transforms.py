"""Image transforms in mmcv's manner: each takes and returns a dict whose ``img`` is a uint8 (H, W, 3) array, BGR."""

from __future__ import annotations

import io

import mmengine.fileio as fileio
import numpy as np
import torch
from mmcv.transforms import BaseTransform, LoadImageFromFile
from PIL import Image, ImageOps, PngImagePlugin

from slimdiff.registry import TRANSFORMS

# Pillow refuses a whole PNG file for more than 1 MB of text beside its pixels.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28


def to_rgb(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Turn an image of any PIL mode into upright 8-bit RGB.

    - The EXIF orientation is applied; malformed EXIF data are taken for none.
    - 16-bit grey is scaled to 8 bit (pillow alone clips it: all white). 32-bit integers and floats have no known
      range and raise ``ValueError``.
    - Transparency, of a palette too, is laid over ``background``: the colours under alpha 0 are arbitrary.
    - Grey is repeated in three channels; CMYK, YCbCr, ... are converted.
    """
    format = image.format  # a copy has none
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # as pillow's parser has it: SyntaxError, struct.error, ValueError, TypeError and others
        image.load()  # the pixels are another matter: what is wrong with them is raised here
    # PNG opens 16-bit grey as 'I;16' (older pillow: 'I'); TIFF in either byte order.
    if image.mode.startswith('I;16') or (image.mode == 'I' and format == 'PNG'):
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    elif image.mode in ('I', 'F'):
        raise ValueError(f"pixels of mode '{image.mode}' (32 bit) have no known range; save the image with 8 or 16 bit")
    if image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        canvas = Image.new('RGBA', image.size, (*background, 255))
        image = Image.alpha_composite(canvas, image)
    return image.convert('RGB')


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` through pillow, with every kind of image made 8-bit colour by :func:`to_rgb`.

    (mmcv's own clips 16-bit images and drops the alpha channel.) Like mmcv's it reads ``img_path`` through any file
    backend and gives BGR, so that all mmcv transforms can follow. If there are ``img_bytes``, an encoded image out of
    an archive, it decodes these instead.

    Args:
        background: RGB colour under transparent pixels.
        backend_args: of mmengine's file backend; see mmcv.
    """

    def __init__(self, background: tuple[int, int, int] = (255, 255, 255), backend_args: dict | None = None):
        super().__init__(imdecode_backend='pillow', backend_args=backend_args)
        self.background = tuple(background)

    def transform(self, results: dict) -> dict:
        content = results.pop('img_bytes', None)
        if content is None:
            content = fileio.get(results['img_path'], backend_args=self.backend_args)
        with Image.open(io.BytesIO(content)) as image:
            rgb = np.asarray(to_rgb(image, self.background))
        results['img'] = np.ascontiguousarray(rgb[:, :, ::-1])
        results['img_shape'] = results['ori_shape'] = rgb.shape[:2]
        return results


@TRANSFORMS.register_module()
class ResizeShortSide(BaseTransform):
    """Resize so that the shorter side is ``size``, the aspect ratio kept, by pillow's antialiased Lanczos filter.

    Not by OpenCV, whose filters do not antialias: Parmar et al., "On Aliased Resizing" (CVPR 2022), measured how much
    of a FID that alone is.
    """

    def __init__(self, size: int):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f'ResizeShortSide: size must be an integer of at least 1 pixel, got {size!r}.')
        self.size = size

    def transform(self, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        short = min(height, width)
        if short != self.size:
            new = (round(width * self.size / short), round(height * self.size / short))
            results['img'] = np.asarray(Image.fromarray(results['img']).resize(new, Image.Resampling.LANCZOS))
            results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'ResizeShortSide(size={self.size})'


@TRANSFORMS.register_module()
class PackImage(BaseTransform):
    """The end of a pipeline: ``img`` (H, W, 3) of values 0..255 -> ``inputs`` (3, H, W) float32 in [-1, 1], RGB.

    ``gt_label``, if there, becomes ``labels``; ``caption`` stays. Everything else is dropped, so that samples collate.

    Args:
        bgr_to_rgb: mmcv loads BGR; False for a pipeline that loads RGB.

    Raises:
        ValueError: another shape, or values outside 0..255, as mmcv's ``Normalize`` makes them.
    """

    def __init__(self, bgr_to_rgb: bool = True):
        self.bgr_to_rgb = bgr_to_rgb

    def transform(self, results: dict) -> dict:
        image = results['img']
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'PackImage: an image must be (H, W, 3), got {image.shape}. '
                             'Load it with three channels (LoadImage does).')
        if image.dtype != np.uint8 and not (image.min() >= 0 and image.max() <= 255):  # NaN neither
            raise ValueError(f'PackImage: the values of an image must lie in 0..255, got {image.min():.4g}..'
                             f'{image.max():.4g} ({image.dtype}). It makes them [-1, 1] itself: leave out what scales '
                             'them before it, such as Normalize.')
        if self.bgr_to_rgb:
            image = image[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(127.5).sub_(1)
        packed = dict(inputs=tensor)
        if 'gt_label' in results:
            packed['labels'] = int(results['gt_label'])
        if 'caption' in results:
            packed['caption'] = results['caption']
        return packed

    def __repr__(self) -> str:
        return f'PackImage(bgr_to_rgb={self.bgr_to_rgb})'
