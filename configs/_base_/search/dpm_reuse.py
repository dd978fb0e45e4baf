# The whole network, or what the last step left (its prediction or its deep features): DPM-Solver++, 55 % of the MACs.
_base_ = './two_stage_small.py'

search = dict(
    space=dict(widths=(1.0, ), depths=(1.0, ), reuse=('prediction', 'features')),
    # What a step leaves to the next one is no property of a step: no additive evaluator can judge it.
    evaluators=[dict(type='DivergenceEvaluator', num_images=50, batch_size=50)],
    searcher=dict(_delete_=True, type='NSGA2Search', population=12, generations=8, offspring=6),
    sampler=dict(_delete_=True, type='DPMSolverMultistepScheduler'),
    budget=dict(fraction=0.55))
