"""ViTDet's Cascade Mask R-CNN: three class-agnostic box stages at IoU 0.5, 0.6 and 0.7 (Cascade
R-CNN, arXiv 1712.00726); a delta on our Mask R-CNN.

As in detectron2 the stages count alike and boxes have an L1 loss. Unlike there, every stage has a
mask head of its own (mmdet's CascadeRoIHead makes three, whose masks are averaged; detectron2 has
one, trained on the proposals), and the gradient of the features is not divided by the number of
stages.
"""

_base_ = "./mask_rcnn_vit.py"

norm_cfg = dict(type="GN", num_groups=32)
model = dict(
    type="CascadeRCNN",
    roi_head=dict(
        type="CascadeRoIHead",
        num_stages=3,
        stage_loss_weights=[1, 1, 1],
        bbox_head=[
            dict(
                type="Shared4Conv1FCBBoxHead",
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                reg_class_agnostic=True,
                norm_cfg=norm_cfg,
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder",
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[0.1 / n, 0.1 / n, 0.2 / n, 0.2 / n],
                ),
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="L1Loss", loss_weight=1.0),
            )
            for n in (1, 2, 3)
        ],
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                assigner=dict(
                    type="MaxIoUAssigner",
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type="RandomSampler",
                    num=512,
                    pos_fraction=0.25,
                    neg_pos_ub=-1,
                    add_gt_as_proposals=True,
                ),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for iou in (0.5, 0.6, 0.7)
        ]
    ),
)
