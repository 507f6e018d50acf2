"""LVIS v1 instances with the Seesaw loss (arXiv 2008.10032) in the place of the federated one.

    torchrun --nproc-per-node 8 tools/train.py configs/det/sparc_lvis_seesaw.py --backbone RUN \\
        --launcher pytorch --amp

No public number for a plain ViT under this recipe is known to us; we have not run it to its end.
"""

_base_ = "./sparc_lvis.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            cls_predictor_cfg=dict(type="NormedLinear", temperature=20),
            loss_cls=dict(_delete_=True, type="SeesawLoss", p=0.8, q=2.0, num_classes=1203),
        )
    ),
    # a softmax over 1,203 classes has lower scores than sigmoids
    test_cfg=dict(rcnn=dict(score_thr=1e-4)),
)
