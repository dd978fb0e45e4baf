import pytest
import torch
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader

from slimdiff.datasets import PhotoPatches, build_dataloader
from slimdiff.registry import RegistryError

ORDERED = dict(type='DefaultSampler', shuffle=False, round_up=False)
DATASET = dict(type='PhotoPatches', length=10, image_size=16)


def test_batches_are_tensors_in_order_and_the_last_is_the_rest():
    loader = build_dataloader(dict(dataset=DATASET, batch_size=4, sampler=ORDERED), seed=0)
    batches = list(loader)
    assert [tuple(b['inputs'].shape) for b in batches] == [(4, 3, 16, 16), (4, 3, 16, 16), (2, 3, 16, 16)]
    expected = PhotoPatches(16).get_batch(range(10))
    assert torch.equal(torch.cat([b['inputs'] for b in batches]), expected['inputs'])
    assert torch.equal(torch.cat([b['labels'] for b in batches]), expected['labels'])


def test_resumable_sampler_learns_the_batch_size_and_the_config_is_left_alone():
    cfg = dict(dataset=DATASET, batch_size=4, sampler=dict(type='ResumableSampler'), persistent_workers=True,
               num_workers=0)
    loader = build_dataloader(cfg, seed=3)
    assert loader.sampler.batch_size == 4 and loader.sampler.seed == 3 and not loader.persistent_workers
    assert cfg['sampler'] == dict(type='ResumableSampler') and cfg['persistent_workers'] and cfg['dataset'] == DATASET


def test_objects_are_used_as_they_are():
    dataset = PhotoPatches(16, length=4)
    assert build_dataloader(dict(dataset=dataset, batch_size=2, sampler=ORDERED)).dataset is dataset
    ready = DataLoader(dataset)
    assert build_dataloader(ready) is ready


def test_batch_sampler_and_worker_init_fn():
    # BatchSampler is torch's; a user would register a class of their own.
    DATA_SAMPLERS.register_module('TestBatchSampler', module=BatchSampler)
    try:
        loader = build_dataloader(dict(
            dataset=DATASET, batch_size=4, sampler=ORDERED, batch_sampler=dict(type='TestBatchSampler', drop_last=True),
            worker_init_fn=print), seed=0)
        assert [len(b['labels']) for b in loader] == [4, 4] and loader.worker_init_fn is print
    finally:
        DATA_SAMPLERS._module_dict.pop('TestBatchSampler')


@pytest.mark.parametrize('change, error, message', [
    (dict(batch_size=0), ValueError, 'at least 1, got 0'),
    (dict(batch_size=None), ValueError, 'at least 1, got None'),
    (dict(sampler=dict(type='ResumableSampler', batch_size=3)), ValueError, 'is 4 but its sampler was given 3'),
    (dict(sampler=dict(type='ResumabelSampler')), RegistryError, "Did you mean 'ResumableSampler'"),
    (dict(sampler=dict(type='ResumableSampler', shufle=True)), RegistryError, "Did you mean 'shuffle'"),
    (dict(sampler=None), ValueError, "'sampler' is missing"),
    (dict(dataset=dict(type='PhotoPatch')), RegistryError, "Did you mean 'PhotoPatches'"),
    (dict(dataset=dict(type='PhotoPatches', image_sise=16)), RegistryError, "Did you mean 'image_size'"),
    (dict(collate_fn=dict(type='default_colate')), RegistryError, "Did you mean 'default_collate'"),
    (dict(num_wokers=2), RegistryError, "Did you mean 'num_workers'"),
])
def test_bad_configs(change, error, message):
    with pytest.raises(error, match=message):
        build_dataloader({**dict(dataset=DATASET, batch_size=4, sampler=ORDERED), **change}, seed=0)
