"""Curves against the number of pairs: CLIP, SPARC as published, with the image contrast of tokens
and of captions on scenes of the default level, one seed, 32,000 to 1,024,000 pairs; 45 minutes of
a core and more the longest.

python tools/data.py scenes --out data/scenes_default --level default --train 20000 --size 64
python tools/study.py configs/study/scenes_long.py --amp
"""

_base_ = "./scenes_easy.py"

tokenizer = dict(train=1000)
# budget 1: 16,000 steps x 64 pairs = 1,024,000 pairs, 51 passes over 20,000 scenes
schedule = dict(steps=16000, warmup=800)
data = dict(sources="data/scenes_default/shards/train-*.tar")
default_hooks = dict(checkpoint=dict(interval=500))
clip = dict(type="Clip")
sparc = {{_base_.study.arms.sparc.objective}}
sparc_ic = {{_base_.study.arms.sparc_ic.objective}}
sparc_cc = {{_base_.study.arms.sparc_cc.objective}}
objectives = dict(clip=clip, sparc=sparc, sparc_ic=sparc_ic, sparc_cc=sparc_cc)
arms = dict(_delete_=True, random=dict(objective=clip, trained=False, group="control"))
arms |= {
    f"{name}_{32 * share}k": dict(objective=objective, budget=share / 32)
    for name, objective in dict(
        clip=clip, sparc=sparc, sparc_ic=sparc_ic, sparc_cc=sparc_cc
    ).items()
    for share in (1, 3, 10, 32)
}
study = dict(root="data/scenes_default", seeds=(0,), baseline="clip_1024k", arms=arms, sweeps=[])
del clip, sparc, sparc_ic, sparc_cc, objectives, arms
