# As two_stage_small.py, but the first stage is the exact front of the sensitivity: 496 images of 16 seeds and no real
# image, then 13 candidates by the same divergence.

search = dict(
    space=dict(num_segments=8),
    evaluators=[
        dict(type='SensitivityEvaluator', num_images=16, num_bins=10, seed=1),
        dict(type='DivergenceEvaluator', num_images=50, batch_size=50),
    ],
    searcher=dict(type='TwoStageSearch', population=11, generations=1, offspring=2, seeds=9),
    sampler=dict(type='DDIMScheduler'),
    num_steps=20)
