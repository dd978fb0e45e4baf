# configs/dit/fashion_mnist_small.py by flow matching (SiT, Ma et al., ECCV 2024): the network predicts velocities.
#   python tools/train.py configs/dit/fashion_mnist_small_flow.py
_base_ = './fashion_mnist_small.py'

model = dict(noise_scheduler=dict(_delete_=True, type='FlowMatchEulerDiscreteScheduler'))
