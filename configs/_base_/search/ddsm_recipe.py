# DDSM's search (Yang et al., ICLR 2024): NSGA-II, 50 candidates in each of 10 rounds. The quality is the
# divergence from the full network, which needs far fewer images than their FID.

search = dict(
    space=dict(num_segments=8),
    evaluators=[dict(type='DivergenceEvaluator', num_images=50, batch_size=50)],
    searcher=dict(type='NSGA2Search', population=50, generations=9),
    sampler=dict(type='DDIMScheduler'),
    num_steps=20)
