"""The study of configs/study/scenes_easy.py with four times the pairs, 3 seeds: 8 minutes of a
core each.

python tools/study.py configs/study/scenes_easy_long.py
"""

_base_ = "./scenes_easy.py"

# 1,600 steps x 64 pairs = 102,400 pairs, 26 passes over 4,000 scenes
schedule = dict(steps=1600, warmup=80)
study = dict(seeds=(0, 1, 2))
