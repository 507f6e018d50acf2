"""The arms of every study: six objectives and SigLIP, three controls, and sweeps at a third of the
budget: lambda_f, a temperature of its own for L_f, sigma, and the same learning rates for all.
"""

# ours: the image contrast in the place of the paper's local loss, see configs/sparc_ic.py
image_contrast = dict(
    type="Sparc",
    global_weight=0.5,
    local_weight=0.0,
    image_contrast=1.0,
    image_negatives=1,
    token_context="both",
)
# ours: of whole captions, in groups of 32, see configs/sparc_cc.py
caption_contrast = dict(image_contrast, contrast_of="captions", image_negatives=31)
study = dict(
    baseline="clip",
    # named before any cell was trained: they alone are tested
    primary=(
        "phrase_local_pointing",
        "word_pointing",
        "R@5",
        "image_dependence",
        "top1",
        "things_mIoU",
    ),
    equivalence=0.03,  # differences inside it count as none
    seeds=(0, 1, 2),
    arms=dict(
        sparc=dict(
            objective=dict(type="Sparc", global_weight=0.5, local_weight=1.0), label="SPARC"
        ),
        sparc_ic=dict(objective=image_contrast, label="SPARC, image contrast"),
        sparc_cc=dict(objective=caption_contrast, label="SPARC, caption contrast"),
        # the paper's loss without equal tokens of a caption among the negatives
        sparc_same_token=dict(
            objective=dict(type="Sparc", global_weight=0.5, local_weight=1.0, same_token="ignore"),
            label="SPARC, equal tokens left out",
        ),
        clip=dict(objective=dict(type="Clip"), label="CLIP"),
        filip=dict(objective=dict(type="Filip"), label="FILIP"),
        pacl=dict(objective=dict(type="Pacl"), label="PACL"),
        gloria=dict(objective=dict(type="Gloria"), label="GLoRIA"),
        mgca=dict(objective=dict(type="Mgca"), label="MGCA"),
        siglip=dict(objective=dict(type="Siglip"), label="SigLIP"),
        random=dict(
            objective=dict(type="Clip"), trained=False, group="control", label="not trained"
        ),
        # images permuted for the local loss: does token identity leak through the alignment?
        sparc_shuffled=dict(
            objective=dict(type="Sparc", global_weight=0.5, local_weight=1.0, shuffle=True),
            group="control",
            twin_of="sparc",
            label="SPARC, shuffled images",
        ),
        sparc_ic_shuffled=dict(
            objective=dict(image_contrast, shuffle=True),
            group="control",
            twin_of="sparc_ic",
            label="image contrast, shuffled images",
        ),
        sparc_cc_shuffled=dict(
            objective=dict(caption_contrast, shuffle=True),
            group="control",
            twin_of="sparc_cc",
            label="caption contrast, shuffled images",
        ),
        clip_longer=dict(
            objective=dict(type="Clip"),
            as_long_as="sparc",
            group="control",
            label="CLIP, SPARC's time",
        ),
    ),
    sweeps=[
        # the paper's values, and one below: its global loss starts at log 16,384, not at log 64
        dict(
            arms=("sparc",),
            key="model.objective.local_weight",
            values=(0.1, 0.5, 1.0, 5.0, 10.0),
        ),
        dict(arms=("sparc",), key="model.objective.local_temperature", values=(True,)),
        dict(arms=("sparc",), key="model.objective.threshold", values=(0.0, 0.25, 0.5)),
        dict(
            arms=("sparc", "clip", "filip", "pacl", "gloria", "mgca", "siglip"),
            key="optim_wrapper.optimizer.lr",
            values=(5e-4, 1e-3, 2e-3),
        ),
    ],
    # tools/study.py --preset gpu: the study to publish; 4,000 steps x 512 = 2 million pairs a cell
    presets=dict(
        gpu={
            "schedule.steps": 4000,
            "schedule.warmup": 400,
            "data.global_batch": 512,
            "data.image_size": 224,
            "data.workers": 12,
            "model.vision.arch": "vit_small_patch16_224",
            "model.vision.overrides.depth": 12,
            "model.text": dict(width=384, layers=6, heads=6),
            "model.width": 384,
        }
    ),
)
del image_contrast, caption_contrast
