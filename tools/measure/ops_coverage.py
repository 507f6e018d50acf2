"""Which ops of mmcv the families of mmdet and mmseg call, and what the tests hold each against.

Found by reading which of ``mmcv.ops`` the two packages import and which types their configs name,
then which functions of ``mmcv._ext`` those load (``ext_loader.load_ext``).
"""

from __future__ import annotations

from typing import NamedTuple


class Op(NamedTuple):
    """One op: its kernels in ``mmcv._ext``, who calls it, and the oracles of the tests."""

    name: str
    kernels: tuple[str, ...]
    users: str
    values: str
    gradients: str


def _both(name: str) -> tuple[str, ...]:
    return f"{name}_forward", f"{name}_backward"


LOOP = "float64 loop"
CHECK = "float64 gradcheck through mmcv"
NONE = "not differentiable"

COVERAGE = (
    Op("nms", ("nms",), "every detector that suppresses (`batched_nms`)", "loop", NONE),
    Op("softnms", ("softnms",), "cornernet, centripetalnet, faster_rcnn (soft-nms)", "loop", NONE),
    Op("nms_match", ("nms_match",), "pisa", "loop", NONE),
    Op("line_nms", ("line_nms_forward",), "clrnet (on CUDA only)", "loop", NONE),
    Op(
        "roi_align",
        _both("roi_align"),
        "every two-stage detector; every data set with masks (`BitmapMasks.crop_and_resize`)",
        LOOP,
        CHECK,
    ),
    Op("deform_roi_pool", _both("deform_roi_pool"), "dcn (dpool), dcnv2 (mdpool)", LOOP, CHECK),
    Op(
        "deform_conv",
        (
            "deform_conv_forward",
            "deform_conv_backward_input",
            "deform_conv_backward_parameters",
        ),
        "dcn, cascade_rpn, centripetalnet, detectors (SAC), empirical_attention, foveabox, gfl, "
        "guided_anchoring, htc, reppoints, tood, vfnet",
        LOOP + " (groups, deform groups, stride, dilation)",
        CHECK,
    ),
    Op(
        "modulated_deform_conv",
        _both("modulated_deform_conv"),
        "dcnv2, centernet, dyhead, glip, fcos, nas_fcos, regnet, solov2, tood, vfnet",
        LOOP + " (as above)",
        CHECK,
    ),
    Op(
        "ms_deform_attn",
        _both("ms_deform_attn"),
        "deformable_detr, dino, ddq, grounding_dino, mm_grounding_dino, mask2former_vis, "
        "mask2former (both packages); on CUDA only, elsewhere mmcv has a path in PyTorch",
        LOOP,
        CHECK,
    ),
    Op(
        "sigmoid_focal_loss",
        _both("sigmoid_focal_loss"),
        "every FocalLoss of both packages (on CUDA only)",
        LOOP,
        CHECK,
    ),
    Op(
        "carafe",
        (*_both("carafe"), *_both("carafe_naive")),
        "carafe",
        LOOP,
        CHECK + " (naive: its kernel against carafe; mmcv lets its gradient run on CUDA only)",
    ),
    Op(
        "masked_im2col, masked_col2im",
        ("masked_im2col_forward", "masked_col2im_forward"),
        "guided_anchoring (prediction)",
        "torch conv2d, float64",
        "none in mmcv",
    ),
    Op("psamask", _both("psamask"), "psanet", LOOP, CHECK),
    Op(
        "sync_bn",
        (
            "sync_bn_forward_mean",
            "sync_bn_forward_var",
            "sync_bn_forward_output",
            "sync_bn_backward_param",
            "sync_bn_backward_data",
        ),
        "simple_copy_paste, strong_baselines (`MMSyncBN`)",
        "torch BatchNorm, formula in float64",
        "autograd of the formula in float64 (mmcv's function takes no float64)",
    ),
)

WITHOUT_KERNEL = (
    "CornerPool (cornernet, centripetalnet): `torch.cummax`; tested against the greatest value so "
    "far, gradcheck.",
    "CrissCrossAttention (ccnet): einsum; tested against a loop, gradcheck.",
    "SAConv2d (detectors): two `deform_conv2d`; tested against the undeformed one, gradcheck.",
    "point_sample, rel_roi_point_to_rel_img_point (point_rend, mask2former), "
    "merge_cells (nas_fpn, nas_fcos): PyTorch.",
)

NOT_NEEDED = (
    "No family calls the others (RoIPool, RoIAlign's `max`, the softmax focal loss, rotated and",
    "quadrilateral boxes, points and voxels, PrRoIPool, BorderAlign, correlation, upfirdn2d ...).",
    "Each still imports, and raises NotImplementedError when it is called.",
    "",
    "Deliberate differences from mmcv's kernels: `deform_roi_pool` has the true derivative with",
    "respect to its offsets also where a sample lies up to one cell outside the map (mmcv",
    "extrapolates there); `line_nms` compares lanes in the order of their scores (mmcv's kernel",
    "takes one side of each pair in the order given); `sigmoid_focal_loss` does not clamp at",
    "1e-38; `carafe` and `carafe_naive` are one computation.",
)
