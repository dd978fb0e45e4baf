import pytest

from slimdiff.spelling import differing, looks_like

TOP = ('model', 'work_dir', 'train_dataloader', 'val_dataloader', 'train_cfg', 'val_cfg', 'optim_wrapper', 'env_cfg',
       'param_scheduler', 'custom_hooks', 'load_from', 'resume', 'launcher')


@pytest.mark.parametrize('name, right', [
    ('modle', 'model'), ('trian_dataloader', 'train_dataloader'), ('custom_hook', 'custom_hooks'),
    ('param_schedulers', 'param_scheduler'), ('load_form', 'load_from'), ('optimizer_wrapper', 'optim_wrapper'),
    ('Train_cfg', 'train_cfg'), ('resum', 'resume'),
])
def test_misspelt(name, right):
    assert looks_like(name, TOP) == right


@pytest.mark.parametrize('name', [
    'train_dataset', 'train_pipeline', 'dataset_type', 'data_root', 'batch_size', 'max_iters', 'image_size', 'seed',
    'ema_cfg', 'optimizer', 'stages', 'num_classes', 'tta_model', 'unet', 'schedule', 'model_channels'
])
def test_helper_variables_are_not_misspellings(name):
    assert looks_like(name, TOP) is None


@pytest.mark.parametrize('a, b, wrong', [
    ('model', 'model', 0), ('model', 'modle', 1), ('model', 'modell', 1), ('model', 'mdel', 1), ('model', 'motel', 1),
    ('model', 'mtdel', 1), ('load_from', 'laod_form', 2), ('model', '', 5)])
def test_letters_that_differ(a, b, wrong):
    """A letter changed, left out, added or swapped with its neighbour counts once."""
    assert differing(a, b)[0] == differing(b, a)[0] == wrong
