"""Systems that were trained with boxes, beside CLIP at equal pairs and at X-VLM's time. All but the
two CLIPs saw boxes, class names or salient objects that captions do not hold. The single-stream
three share no space of patches and texts: retrieval and faithfulness alone read them.

python tools/study.py configs/study/scenes_boxes.py [--amp]

Not yet run.
"""

_base_ = "./scenes.py"

captions = dict(shards="data/scenes/shards/train-*.tar", weight=2)
boxes = dict(shards="data/scenes/shards/boxes-train-*.tar", weight=1)
fusion = dict(layers=2, heads=3)
rate = {"optim_wrapper.optimizer.lr": 5e-4, "optim_wrapper.optimizer.weight_decay": 0.01}
concepts = {**rate, "data.sources": [captions, boxes], "data.fields": dict(concepts=5)}
stream = {**rate, "data.sources": [boxes], "model.text.layers": 0}
regions = {**stream, "data.fields": dict(regions=12)}
tagged = {**stream, "data.fields": dict(regions=12, tags=12)}
products = {**stream, "data.fields": dict(saliency=True, concepts=8, crop="none")}
products |= {"model.guide_reading": "boxes"}
no_boxes = dict(type="Xvlm", fusion=fusion, weights=dict(box_l1=0, box_giou=0))
study = dict(
    primary=("R@5",),
    arms=dict(
        _delete_=True,
        clip=dict(objective=dict(type="Clip"), label="CLIP"),
        clip_longer=dict(
            objective=dict(type="Clip"), as_long_as="xvlm", group="control", label="CLIP, longer"
        ),
        xvlm=dict(objective=dict(type="Xvlm", fusion=fusion), options=concepts, label="X-VLM"),
        xvlm_no_boxes=dict(
            objective=no_boxes, options=concepts, group="control", label="X-VLM, no box terms"
        ),
        uniter=dict(objective=dict(type="Uniter", fusion=fusion), options=regions, label="UNITER"),
        oscar=dict(
            objective=dict(type="Oscar", length=48, fusion=fusion), options=tagged, label="Oscar"
        ),
        kaleido=dict(
            objective=dict(type="Kaleido", patch_px=32, fusion=fusion),
            options=products,
            label="Kaleido-BERT",
        ),
    ),
    sweeps=[],
)
