# Peebles and Xie (ICCV 2023), section 4: AdamW without decay, warm-up or clipping, 1e-4 for 256 images (8 GPUs with 32
# each), an EMA of 0.9999 (default_runtime.py), 7 million iterations for the best network.
_base_ = './sd_150k.py'

train_cfg = dict(max_iters=7_000_000, val_interval=50_000)
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.0))
param_scheduler = []
