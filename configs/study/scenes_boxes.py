"""Systems that were trained with boxes, beside CLIP and SPARC at equal pairs, on easy scenes. CLIP
and SPARC saw captions alone; X-VLM saw boxes with phrases in a third of its batches; UNITER boxes
and class names, Oscar boxes and tags, Kaleido-BERT salient boxes and boxes with phrases in all.

python tools/data.py scenes --out data/scenes_easy --level easy --train 4000 --val 400 --size 64
python tools/study.py configs/study/scenes_boxes.py --amp --keep-runs
"""

_base_ = "../_base_/study_boxes.py"

# 600 steps x 64 pairs = 38,400 pairs, 9.6 passes over 4,000 scenes
schedule = dict(steps=600, warmup=60)
