"""160,000 iterations of AdamW with layer-wise learning rates and a linear decay, 16 images each."""

_base_ = "mmseg::_base_/schedules/schedule_160k.py"

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=0.05),
    constructor="LayerDecayConstructor",
    paramwise_cfg=dict(layer_decay=0.65),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, begin=1500, end=160000, eta_min=0.0, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=16)
