"""UPerNet as in seg.py on scenes of 64 px, for towers with patches of 8 px (study/scenes_easy.py
and scenes_boxes.py): the same number of patches.

python tools/data.py scenes --out data/scenes_easy --level easy --train 4000 --val 400 --size 64
python tools/train.py configs/quickstart/seg_small.py --backbone RUN --amp
"""

_base_ = "./seg.py"

model = dict(data_preprocessor=dict(size=(64, 64)), neck=dict(strides=(2, 4, 8, 16)))
train_dataloader = dict(dataset=dict(data_root="data/scenes_easy/ade"))
val_dataloader = dict(dataset=dict(data_root="data/scenes_easy/ade"))
test_dataloader = val_dataloader
