"""What a study measures on a folder that tools/data.py scenes wrote: its leaf says `study.root`."""

_base_ = "./study.py"

study = dict(
    evaluations=[
        dict(task="retrieval", images="images/val", captions="annotations/captions_val.json"),
        dict(task="faithfulness", images="images/val", captions="annotations/captions_val.json"),
        dict(
            task="segmentation",
            images="ade/images/validation",
            annotations="ade/annotations/validation",
            classes="ade/classes.txt",
        ),
        dict(task="grounding", images="images/val", phrases="annotations/phrases_val.json"),
        dict(task="dependence", images="images/val", captions="annotations/captions_val.json"),
        dict(task="regions", images="images/val", annotations="annotations/instances_val.json"),
        dict(
            task="probe",
            images="images/val",
            annotations="annotations/instances_val.json",
            phrases="annotations/phrases_val.json",
            train_images="images/train",
            train_annotations="annotations/instances_train.json",
            train_phrases="annotations/phrases_train.json",
        ),
    ],
)
