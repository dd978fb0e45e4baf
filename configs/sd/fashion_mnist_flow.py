# configs/sd/fashion_mnist.py by flow matching: the student predicts velocities. The teacher, which predicts noise, is
# converted at equal signal-to-noise ratio.
#   python tools/train.py configs/sd/fashion_mnist_flow.py
_base_ = './fashion_mnist.py'

model = dict(
    noise_scheduler=dict(_delete_=True, type='FlowMatchEulerDiscreteScheduler'),
    sampler=dict(type='FlowMatchHeunDiscreteScheduler'))
