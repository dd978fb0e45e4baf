# Widths and depths: 20 steps of DPM-Solver++, 55 % of the MACs.
_base_ = './two_stage_small.py'

search = dict(
    space=dict(num_segments=8),
    sampler=dict(_delete_=True, type='DPMSolverMultistepScheduler'),
    budget=dict(fraction=0.55))
