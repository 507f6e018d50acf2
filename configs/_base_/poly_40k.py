"""The same as poly_160k.py over 40,000 iterations."""

_base_ = "./poly_160k.py"

train_cfg = dict(max_iters=40000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, begin=1500, end=40000, eta_min=0.0, by_epoch=False),
]
