"""The captioner of caption_flamingo.py on features that are computed once and read from the disk
after.

python tools/train.py configs/quickstart/caption_flamingo_cached.py \\
    --backbone work_dirs/quickstart/sparc --amp
"""

_base_ = "./caption_flamingo.py"

model = dict(backbone=dict(frozen=True))
custom_hooks = [
    dict(type="sparc.CaptionerFilesHook"),
    dict(type="sparc.CostHook"),
    dict(type="sparc.CachedFeaturesHook"),
]
