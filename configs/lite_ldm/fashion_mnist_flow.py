# configs/lite_ldm/fashion_mnist.py by flow matching: the network predicts velocities.
#   python tools/train.py configs/lite_ldm/fashion_mnist_flow.py
_base_ = './fashion_mnist.py'

model = dict(noise_scheduler=dict(_delete_=True, type='FlowMatchEulerDiscreteScheduler'))
