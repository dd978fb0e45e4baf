import torch
from torch.utils.data import default_collate

from slimdiff.registry import DATASETS


def test_samples_are_standard_normal_and_their_own():
    data = DATASETS.build(dict(type='RandomSamples', shape=[4, 16, 16], key='latents', num_classes=7, captions=True))
    values = torch.stack([data[k]['latents'] for k in range(64)])
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02  # 65,536 draws: standard errors .004 and .003
    assert torch.equal(data[3]['latents'], data[3]['latents']) and not torch.equal(values[3], values[4])
    assert {data[k]['labels'] for k in range(64)} == set(range(7))
    batch = default_collate([data[0], data[1]])
    assert batch['caption'] == ['sample 0', 'sample 1'] and batch['labels'].dtype == torch.int64
    assert DATASETS.build(dict(type='RandomSamples', shape=[3, 4, 4]))[0].keys() == {'inputs'}
