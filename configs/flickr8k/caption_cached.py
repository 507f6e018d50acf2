"""The captioner of caption.py on features that are computed once and read from the disk after; a
captioner's data has no random transforms, so nothing else changes.

python tools/train.py configs/flickr8k/caption_cached.py --backbone work_dirs/flickr8k/sparc --amp
"""

_base_ = "./caption.py"

model = dict(backbone=dict(frozen=True))
custom_hooks = [dict(type="sparc.CaptionerFilesHook"), dict(type="sparc.CachedFeaturesHook")]
