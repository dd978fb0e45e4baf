"""Datasets, image transforms and samplers."""

from slimdiff.datasets.cifar10 import CIFAR10
from slimdiff.datasets.coco_captions import CocoCaptions
from slimdiff.datasets.image_folder import ImageFolder
from slimdiff.datasets.image_zip import ImageZip
from slimdiff.datasets.imagenet import ImageNet
from slimdiff.datasets.laion_tars import LaionTars
from slimdiff.datasets.latents import LatentDataset
from slimdiff.datasets.loader import build_dataloader
from slimdiff.datasets.lsun import LSUN
from slimdiff.datasets.mnist import MNIST, FashionMNIST
from slimdiff.datasets.photo_patches import PhotoPatches
from slimdiff.datasets.random_samples import RandomSamples
from slimdiff.datasets.records import RecordDataset
from slimdiff.datasets.samplers import ResumableSampler
from slimdiff.datasets.transforms import LoadImage, PackImage, ResizeShortSide

__all__ = [
    'CIFAR10', 'LSUN', 'MNIST', 'CocoCaptions', 'FashionMNIST', 'ImageFolder', 'ImageNet', 'ImageZip', 'LaionTars',
    'LatentDataset', 'LoadImage', 'PackImage', 'PhotoPatches', 'RandomSamples', 'RecordDataset', 'ResizeShortSide',
    'ResumableSampler', 'build_dataloader',
]
