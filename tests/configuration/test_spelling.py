import itertools

import pytest

from slimdiff.configuration.spelling import edit_distance, looks_like

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


def test_edit_distance_against_brute_force():
    """Oracle: breadth-first search over single edits, on all pairs of short words."""

    def neighbours(word):
        for i in range(len(word) + 1):
            yield from (word[:i] + c + word[i:] for c in 'ab')
        for i in range(len(word)):
            yield word[:i] + word[i + 1:]
            yield from (word[:i] + c + word[i + 1:] for c in 'ab')

    def swaps(word):
        return [word[:i] + word[i + 1] + word[i] + word[i + 2:] for i in range(len(word) - 1)]

    words = [''.join(w) for n in range(4) for w in itertools.product('ab', repeat=n)]
    for start in words:
        distance, frontier, steps = {start: 0}, [start], 0
        while frontier and steps < 3:
            steps += 1
            frontier = [n for w in frontier for n in (*neighbours(w), *swaps(w)) if len(n) <= 5 and n not in distance]
            for word in frontier:
                distance.setdefault(word, steps)
        for end in words:
            assert edit_distance(start, end) == distance[end], (start, end)
