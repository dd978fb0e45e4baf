"""``--scheduler``, ``--eta`` and ``--steps`` of every command that samples, in this process."""

import json

import numpy as np
import pytest

from slimdiff.cli import compare_allocations, plot_allocation, sample, search, test
from slimdiff.sampling import StepAllocation

CONFIG = """
model = dict(
    type='DiffusionModel', sigma_data=None, num_steps=3, sampler=dict(type='DDIMScheduler', steps_offset=1),
    unet=dict(type='SlimmableUNet', sample_size=8, widths=(0.5, 1.0), norm_groups=4,
              stages=[dict(channels=8, blocks=1, downsample=False)]))
default_scope = 'slimdiff'
val_dataloader = dict(batch_size=8, sampler=dict(type='DefaultSampler', shuffle=False),
                      collate_fn=dict(type='default_collate'),
                      dataset=dict(type='PhotoPatches', split='val', image_size=8, length=16))
val_evaluator = [dict(type='LaplacianSWD', min_size=8)]
test_dataloader, test_evaluator = val_dataloader, val_evaluator
val_cfg = test_cfg = dict(type='EvaluationLoop', num_images=8)
search = dict(space=dict(num_segments=2), evaluators=[dict(type='DivergenceEvaluator', num_images=2)],
              searcher=dict(type='RandomSearch', num_candidates=2))
"""
REFUSED = 'FlowMatchHeunDiscreteScheduler cannot sample this network'


@pytest.fixture
def folder(model_folder):
    made = model_folder(CONFIG)
    StepAllocation.uniform(1.0, 1000).save(made / 'mine.json')
    return made


@pytest.mark.parametrize(('main', 'words', 'message'), [
    (sample.main, ['--out', 'out', '--scheduler', 'FlowMatchHeunDiscreteScheduler'], REFUSED),
    (sample.main, ['--out', 'out', '--steps', '1000'], 'DDIMScheduler: 1000 steps go from timestep 1000'),
    (sample.main, ['--out', 'out', '--eta', '1', '--scheduler', 'UniPCMultistepScheduler'], 'has no eta'),
    (sample.main, ['--out', 'out', '--eta', '7'], 'eta must lie in [0, 1]'),
    (test.main, ['--json', 'out', '--scheduler', 'FlowMatchHeunDiscreteScheduler'], REFUSED),
    (test.main, ['--json', 'out', '--steps', '1000'], 'DDIMScheduler: 1000 steps go from timestep 1000'),
    (compare_allocations.main, ['--work-dir', 'out', '--samplers', 'DDIMScheduler:2',
                                'FlowMatchHeunDiscreteScheduler:2'], REFUSED),
    (search.main, ['--work-dir', 'out', '--cfg-options', 'search.sampler.type=FlowMatchHeunDiscreteScheduler'],
     REFUSED),
    (search.main, ['--work-dir', 'out', '--cfg-options', 'search.num_steps=1000'], 'go from timestep 1000'),
    (plot_allocation.main, ['--out', 'out.png', '--scheduler', 'FlowMatchHeunDiscreteScheduler'], REFUSED),
    (plot_allocation.main, ['--out', 'out.png', '--steps', '1000'], 'go from timestep 1000'),
])
def test_every_command_refuses_before_it_writes(folder, capsys, main, words, message):
    what = 'mine.json' if main is plot_allocation.main else 'unet'
    assert main(['config.py', what, *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.glob('out*'))


def test_eta_of_the_command_is_that_of_the_config(folder):
    def images(name, *words):
        assert sample.main(['config.py', 'unet', '--out', f'{name}.npz', '-n', '2', *words]) == 0
        return np.load(f'{name}.npz')['images'].astype(int)

    plain, noisy = images('a'), images('b', '--eta', '1')
    assert np.abs(plain - noisy).mean() > 1
    assert np.array_equal(noisy, images('c', '--cfg-options', 'model.sampler.eta=1.0'))
    assert np.array_equal(plain, images('d', '--eta', '0', '--cfg-options', 'model.sampler.eta=1.0'))
    assert json.loads(str(np.load('b.npz')['settings']))['identity']['sampler']['_eta'] == 1
