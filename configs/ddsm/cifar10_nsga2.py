# configs/ddsm/cifar10.py, searched as DDSM does (Yang et al., ICLR 2024): 500 candidates, each by the FID of 4,096
# images. Train with cifar10.py; this one is for `slimdiff search`.
_base_ = './cifar10.py'

search = dict(
    evaluators=[dict(type='FrechetEvaluator', metric=dict(type='FID'), num_images=4096)],
    searcher=dict(_delete_=True, type='NSGA2Search', population=50, generations=9),
    num_steps=100)
