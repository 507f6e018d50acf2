"""The captioner of caption.py on features that are computed once and read from the disk after.

python tools/train.py configs/quickstart/caption_cached.py --backbone work_dirs/quickstart/sparc \\
    --amp
"""

_base_ = "./caption.py"

model = dict(backbone=dict(frozen=True))
custom_hooks = [dict(type="sparc.CaptionerFilesHook"), dict(type="sparc.CachedFeaturesHook")]
