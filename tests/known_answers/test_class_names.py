"""A label means the same class everywhere: in two data sets, and in a data set and a checkpoint."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimdiff.checkpoint import load_checkpoint
from slimdiff.cli import export, sample, search, test, train
from slimdiff.configuration import load_config
from slimdiff.evaluation import evaluate
from slimdiff.models.algorithms import batches
from slimdiff.models.serving import serving_config
from slimdiff.registry import DATASETS, MODELS

ROOT = Path(__file__).resolve().parents[2]
UNET = dict(type='SlimmableUNet', widths=(0.5, 1.0), sample_size=8, norm_groups=2,
            stages=[dict(channels=8, blocks=1, downsample=False)])
CONFIG = f"""
_base_ = '{ROOT}/configs/_base_/default_runtime.py'
model = dict(type='DiffusionModel', num_classes=3, num_steps=2, unet={UNET!r})
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='ResumableSampler', shuffle=True),
                        dataset=dict(type='ImageFolder', image_size=8, data_root='FOLDER/train',
                                     class_from_folder=True))
val_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(type='ImageFolder', image_size=8, data_root='FOLDER/val',
                                   class_from_folder=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='BandwiseDenoisingError', stderr=False)
test_evaluator = val_evaluator
val_cfg = dict(type='EvaluationLoop', num_images=2, batch_size=2)
test_cfg = val_cfg
train_cfg = dict(type='IterTrainLoop', max_iters=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
default_hooks = dict(samples=None, spectra=None, report=None)
search = dict(evaluators=[dict(type='DivergenceEvaluator', num_images=1)],
              searcher=dict(type='RandomSearch', num_candidates=1))
"""
TRAINED = ('cat', 'dog', 'fox')


def folder_of(root, classes):
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name / '1.png')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config whose sets agree (the validation set lacks the last class), and its checkpoint."""
    folder = tmp_path_factory.mktemp('classes')
    folder_of(folder / 'train', TRAINED)
    folder_of(folder / 'val', TRAINED[:2])
    folder_of(folder / 'other', TRAINED[1:])
    config = folder / 'config.py'
    config.write_text(CONFIG.replace('FOLDER', str(folder)))
    assert train.main([str(config), '--work-dir', str(folder / 'run')]) == 0
    return config, folder / 'run/iter_1.pth'


def options(trained, *splits):
    root = f'{trained[0].parent}/other'
    return ['--cfg-options', *(f'{split}_dataloader.dataset.data_root={root}' for split in splits)]


def test_training_refuses_a_validation_set_of_other_classes_before_it_begins(trained, tmp_path, capsys):
    work_dir = tmp_path / 'run'
    assert train.main([str(trained[0]), '--work-dir', str(work_dir), *options(trained, 'val')]) == 2
    folder = trained[0].parent
    assert (f"Label 0 means 'dog' in the data set ImageFolder '{folder}/other', but 'cat' in the data set ImageFolder "
            f"'{folder}/train'") in capsys.readouterr().err
    assert not work_dir.exists()


def test_a_checkpoint_remembers_its_classes(trained):
    assert load_checkpoint(trained[1])['meta']['dataset_meta']['classes'] == list(TRAINED)


def test_test_search_and_sample_compare_the_checkpoints_classes(trained, tmp_path, capsys):
    config, checkpoint = map(str, trained)
    message = f"Label 0 means 'dog' in the data set ImageFolder '{trained[0].parent}/other', but 'cat' in {checkpoint}"
    arguments = [config, checkpoint, '--work-dir', str(tmp_path / 'work')]
    assert test.main(arguments) == 0
    capsys.readouterr()
    for command, split in ((test, 'test'), (search, 'val')):
        assert command.main([*arguments, *options(trained, split)]) == 2
        assert message in capsys.readouterr().err
    named = ['--out', str(tmp_path / 'images'), '-n', '1', '--cfg-options',
             "train_dataloader.dataset.classes=['fox','dog','cat']"]
    assert sample.main([config, checkpoint, *named]) == 2
    assert f"Label 0 means 'fox' in train_dataloader.dataset of the config, but 'cat' in {checkpoint}" in (
        capsys.readouterr().err)
    assert not (tmp_path / 'images').exists()


def test_an_exported_folder_remembers_them_too(trained, tmp_path, capsys):
    config, checkpoint = map(str, trained)
    out = str(tmp_path / 'exported')
    assert export.main([config, checkpoint, out]) == 0
    assert test.main([config, out, '--work-dir', str(tmp_path / 'work')]) == 0
    capsys.readouterr()
    assert test.main([config, out, '--work-dir', str(tmp_path / 'work'), *options(trained, 'test')]) == 2
    assert f"/other', but 'cat' in {out}" in capsys.readouterr().err
    index = tmp_path / 'exported/model_index.json'
    for damaged in ('{', '[]', '{"id2label": 3}', '{"id2label": {"x": "cat"}}'):
        kept = index.read_text()
        index.write_text(damaged)
        assert test.main([config, out, '--work-dir', str(tmp_path / 'work')]) == 2
        assert 'model_index.json is damaged' in capsys.readouterr().err
        index.write_text(kept)
    import diffusers
    assert diffusers.DiffusionPipeline.from_pretrained(out).config.id2label == {'0': 'cat', '1': 'dog', '2': 'fox'}


def test_a_resumed_run_refuses_other_classes_and_a_new_one_says_so(trained, tmp_path, capsys):
    config, checkpoint = map(str, trained)
    other = [*options(trained, 'train', 'val'), 'train_cfg.max_iters=2']
    assert train.main([config, '--work-dir', str(tmp_path / 'a'), '--resume', checkpoint, *other]) == 2
    assert f"Label 0 means 'cat' in {checkpoint}, but 'dog' in the data set ImageFolder '" in capsys.readouterr().err
    assert train.main([config, '--work-dir', str(tmp_path / 'b'), *other, f'load_from={checkpoint}']) == 0
    assert 'this run learns its own classes' in capsys.readouterr().out


def test_a_teacher_of_other_classes_is_refused(trained, tmp_path, capsys):
    model = dict(type='Distiller', num_classes=3, unet=UNET, teacher=dict(checkpoint=str(trained[1])),
                 losses=[dict(type='SpatialLoss', tap='output')])
    config = tmp_path / 'distil.py'
    config.write_text(f"_base_ = '{trained[0]}'\nmodel = dict(_delete_=True, **{model!r})\n")
    assert train.main([str(config), '--work-dir', str(tmp_path / 'a'), *options(trained, 'train', 'val')]) == 2
    assert f"but 'cat' in the teacher ({trained[1]})" in capsys.readouterr().err
    assert train.main([str(config), '--work-dir', str(tmp_path / 'b')]) == 0


def test_python_too_and_a_model_without_classes_does_not_care(trained):
    cfg = load_config(str(trained[0]))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    model = MODELS.build(serving_config(cfg.model))
    from torch.utils.data import DataLoader
    model.check_classes(['dog', 'cat', 'fox'], 'x')
    with pytest.raises(ValueError, match="Label 0 means 'cat' in the data set ImageFolder '.*/train', but 'dog' in x"):
        evaluate(model, DataLoader(dataset), [])
    plain = MODELS.build(dict(type='DiffusionModel', unet=UNET))
    plain.check_classes(['a'], 'x')
    plain.check_classes(['b'], 'y')


def test_only_labels_that_both_have_are_compared():
    batches.check_classes(('a', 'b'), 'x', ['a', 'b', 'c'], 'y')
    batches.check_classes(('a', 'b', 'c'), 'x', ['a', 'b'], 'y')
    with pytest.raises(ValueError, match="Label 1 means 'c' in x, but 'b' in y"):
        batches.check_classes(('a', 'c'), 'x', ['a', 'b'], 'y')
