"""The configs of the data sets, and what they say where the data are missing."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

import slimdiff.datasets
from slimdiff.configuration import check_config, load_config
from slimdiff.datasets import RecordDataset, build_dataloader
from slimdiff.datasets.missing import DOCS_PAGE, MissingDataError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'configs/_base_/datasets'
NAMES = ['celebahq_256', 'cifar10', 'coco_256', 'ffhq_256', 'image_folder', 'imagenet_256', 'laion_256',
         'lsun_bedroom_256', 'lsun_church_256']


def anchors():
    """Of the headings of the page, as GitHub and MyST make them."""
    titles = re.findall(r'^##+ (.+)$', (ROOT / DOCS_PAGE).read_text(), re.M)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('name', [*NAMES, 'fashion_mnist'])
def test_the_config_has_the_loaders_of_photo_patches(name):
    check_config(load_config(FOLDER / f'{name}.py'))
    cfg, model = Config.fromfile(FOLDER / f'{name}.py'), Config.fromfile(FOLDER / 'photo_patches.py')
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert set(model[key]) <= set(cfg[key]) and cfg[key].sampler == model[key].sampler
        assert cfg[key].get('collate_fn') == model[key].get('collate_fn')
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert cfg.test_dataloader == cfg.val_dataloader and train.type == val.type and train != val
    assert train.get('image_size', 32) == val.get('image_size', 32)
    if name not in ('image_folder', ):
        head = (FOLDER / f'{name}.py').read_text().split('\n\n')[0]
        anchor, = re.findall(re.escape(DOCS_PAGE) + r'#([\w-]+)', head)
        assert anchor in anchors() and anchor == getattr(slimdiff.datasets, train.type).section


@pytest.mark.parametrize('name', [name for name in NAMES if name.endswith('_256')])
def test_the_papers_data_are_neither_augmented_nor_flipped(name):
    """Supplement of Yang et al. 2023, section 4.2: "without any augmentations and flipping"."""
    cfg = load_config(FOLDER / f'{name}.py')
    assert cfg.train_dataloader.dataset.image_size == 256
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert 'pipeline' not in loader.dataset


@pytest.mark.parametrize('gives, first', [('bytes', ['LoadImage']), ('path', ['LoadImage']), ('array', [])])
def test_without_a_pipeline_images_are_neither_augmented_nor_flipped(gives, first):
    steps = RecordDataset.default_pipeline(SimpleNamespace(image_size=256, gives=gives))
    assert [step['type'] for step in steps] == [*first, 'ResizeShortSide', 'CenterCrop', 'PackImage']


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', NAMES)
def test_missing_data_are_one_line_with_path_and_docs_page(name, split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loader = load_config(FOLDER / f'{name}.py')[f'{split}_dataloader']
    with pytest.raises(MissingDataError) as caught:
        build_dataloader(loader, seed=0)
    text = str(caught.value)
    path = loader.dataset.data_root
    assert '\n' not in text and f"'{path}" in text and str(tmp_path / path) in text
    page, anchor = text.rsplit(' ', 1)[1].split('#')
    assert page == DOCS_PAGE and anchor in anchors()


def test_every_data_set_of_files_has_a_section():
    classes = [value for value in vars(slimdiff.datasets).values()
               if isinstance(value, type) and issubclass(value, RecordDataset)]
    assert len(classes) == 8 and {cls.section for cls in classes} <= anchors()
