# Which width each step gets: the exact front of the loss gap, then evolution from there by the divergence from the full
# network. docs/en/user_guides/give_each_step_its_width.md explains the keys.

search = dict(
    space=dict(num_segments=8),
    evaluators=[
        dict(type='LossGapEvaluator', num_images=1000, num_bins=10),
        dict(type='DivergenceEvaluator', num_images=100),
    ],
    # 24 allocations, then 96 more, a few at a time: small steps find more than large generations.
    searcher=dict(type='TwoStageSearch', population=24, generations=24, offspring=4),
    sampler=dict(type='DDIMScheduler'),
    num_steps=50,
    budget=dict(fraction=0.5))
