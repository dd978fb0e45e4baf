from itertools import chain, islice

import pytest
import torch

from slimdiff.datasets import ResumableSampler, build_dataloader, samplers


class Plain:
    """A dataset of the numbers below n."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, k):
        return k


class Epochal(Plain):
    epoch_indexing = True


def make(monkeypatch, rank, world_size, dataset, **arguments):
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))
    return ResumableSampler(dataset, seed=arguments.pop('seed', 0), **arguments)


def take(sampler, iterations):
    """Its first iterations, as lists of a batch."""
    flat = list(islice(iter(sampler), iterations * sampler.batch_size))
    return [flat[i:i + sampler.batch_size] for i in range(0, len(flat), sampler.batch_size)]


def flatten(lists):
    return list(chain.from_iterable(lists))


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('n', [10, 12, 3])  # with batches of 4: over the end of an epoch, at it, several a batch
def test_resume_equals_uninterrupted(monkeypatch, n, shuffle):
    for rank, world_size in [(0, 1), (0, 2), (1, 2)]:
        whole = take(make(monkeypatch, rank, world_size, Epochal(n), batch_size=4, shuffle=shuffle), 20)
        for start in (0, 1, 2, 3, 7, 15):
            sampler = make(monkeypatch, rank, world_size, Epochal(n), batch_size=4, shuffle=shuffle)
            sampler.set_position(start)
            assert take(sampler, 20 - start) == whole[start:]
            assert take(sampler, 20 - start) == whole[start:]  # a second iterator starts there as well


@pytest.mark.parametrize('n', [10, 12, 3])
def test_two_ranks_see_what_one_rank_sees_with_the_double_batch(monkeypatch, n):
    one = take(make(monkeypatch, 0, 1, Epochal(n), batch_size=8), 12)
    ranks = [take(make(monkeypatch, rank, 2, Epochal(n), batch_size=4), 12) for rank in (0, 1)]
    assert [a + b for a, b in zip(*ranks)] == one


def test_every_epoch_is_a_permutation_and_another_one(monkeypatch):
    flat = flatten(take(make(monkeypatch, 0, 1, Epochal(10), batch_size=5), 8))
    epochs = [flat[i:i + 10] for i in range(0, 40, 10)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == list(range(10 * number, 10 * number + 10))
    assert len({tuple(k % 10 for k in epoch) for epoch in epochs}) == 4
    assert flat != flatten(take(make(monkeypatch, 0, 1, Epochal(10), batch_size=5, seed=1), 8))


def test_a_dataset_without_epoch_indexing_gets_indices_below_its_length(monkeypatch):
    epochal = flatten(take(make(monkeypatch, 0, 1, Epochal(10), batch_size=5), 8))
    plain = flatten(take(make(monkeypatch, 0, 1, Plain(10), batch_size=5), 8))
    assert plain == [k % 10 for k in epochal]
    ordered = flatten(take(make(monkeypatch, 0, 1, Plain(10), batch_size=4, shuffle=False), 5))
    assert ordered == list(range(10)) * 2


def test_no_global_random_state(monkeypatch):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    take(make(monkeypatch, 0, 1, Plain(10), batch_size=5), 4)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('workers', [0, 2])
def test_loader_resumes_without_replay(workers):
    def loader():
        return build_dataloader(dict(dataset=dict(type='PhotoPatches', length=20), batch_size=8, num_workers=workers,
                                     sampler=dict(type='ResumableSampler'), collate_fn=dict(type='default_collate'),
                                     persistent_workers=True), seed=0)

    whole = list(islice(loader(), 6))
    resumed = loader()
    resumed.sampler.set_position(4)
    for expected, batch in zip(whole[4:], islice(resumed, 2)):
        assert torch.equal(expected['inputs'], batch['inputs']) and torch.equal(expected['labels'], batch['labels'])
    # Fresh crops in the second epoch: 6 batches of 8 hold 48 different crops of a dataset of 20.
    assert len(torch.cat([b['inputs'] for b in whole]).flatten(1).unique(dim=0)) == 48


@pytest.mark.parametrize('world_size', [1, 2, 3, 8])
def test_evaluation_sampler_of_the_configs_loses_and_doubles_nothing(monkeypatch, world_size):
    shares = []
    for rank in range(world_size):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, world_size))
        loader = build_dataloader(dict(dataset=Plain(7), batch_size=2, num_workers=0,
                                       sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
                                       collate_fn=dict(type='default_collate')), seed=0)
        shares.append([k for batch in loader for k in batch.tolist()])
        assert len(loader) == -(-len(shares[-1]) // 2)
    assert sorted(flatten(shares)) == list(range(7))


def test_bad_arguments():
    with pytest.raises(ValueError, match='empty'):
        ResumableSampler(Plain(0), seed=0, batch_size=1)
    with pytest.raises(ValueError, match='seed is None'):
        ResumableSampler(Plain(5), batch_size=1)
    with pytest.raises(ValueError, match='batch_size'):
        ResumableSampler(Plain(5), seed=0)
    with pytest.raises(ValueError, match='iteration'):
        ResumableSampler(Plain(5), seed=0, batch_size=1).set_position(-1)
