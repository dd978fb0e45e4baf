# A twentieth of ddsm_recipe.py's candidates: the exact front of the loss gap, then 23 candidates by its divergence.

search = dict(
    space=dict(num_segments=8),
    evaluators=[
        dict(type='LossGapEvaluator', num_images=1000, num_bins=10),
        dict(type='DivergenceEvaluator', num_images=50, batch_size=50),
    ],
    searcher=dict(type='TwoStageSearch', population=17, generations=2, offspring=3, seeds=13),
    sampler=dict(type='DDIMScheduler'),
    num_steps=20)
