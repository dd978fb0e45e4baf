# A step-aware model on AFHQ at 64x64, after DDSM (Yang et al., ICLR 2024); the schedule is that of its CIFAR-10.
_base_ = [
    '../_base_/models/ddsm_64.py',
    '../_base_/datasets/afhq_256.py',
    '../_base_/schedules/ddsm.py',
    '../_base_/search/two_stage.py',
    '../_base_/default_runtime.py',
]

train_dataloader = dict(batch_size=256, dataset=dict(image_size=64))
val_dataloader = dict(dataset=dict(image_size=64))
test_dataloader = dict(dataset=dict(image_size=64))
