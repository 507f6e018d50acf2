"""A study's metrics in words: under which heading they stand, and what their evaluations declare of
them.
"""

from __future__ import annotations

from dataclasses import replace

from sparc_pretrain.metric import Metric
from sparc_pretrain.zeroshot import (
    classification,
    faithfulness,
    grounding_run,
    regions,
    retrieval,
    segmentation,
)

OTHER = "Other"
# heading -> its metrics; those that a study alone makes are declared here
DECLARED: dict[str, tuple[Metric, ...]] = {
    "Retrieval: whole images and captions": (
        Metric("R@5", title="R@5, both ways", words="mean of image→text and text→image, by image"),
        *retrieval.METRICS,
    ),
    "Faithfulness: words of the caption retrieved for an image": faithfulness.METRICS,
    "Classification: images by class names": tuple(
        replace(metric, name=f"class_{metric.name}") for metric in classification.METRICS
    ),
    "Segmentation: pixels by class names": segmentation.METRICS,
    "Grounding: where a phrase points to": (
        *grounding_run.METRICS,
        *(
            Metric(f"{kind}_pointing", title=f"a {kind} word points", words="as a single word")
            for kind in ("colour", "category")
        ),
    ),
    "Regions: ground-truth boxes named": regions.METRICS,
    "Linear probe: what the frozen backbone holds": (
        Metric("probe_category", title="category of a box", words="from its mean state, ridge"),
        Metric("probe_colour", title="colour of a box", words="from its mean state, ridge"),
        Metric("probe_box_IoU", title="box, IoU", words="from the patch of its centre, ridge"),
    ),
    "The local loss: does it look": (
        Metric(
            "image_dependence",
            "number",
            title="image dependence",
            words="L_f (eq. 6) of the next image minus that of the own one, nats; 0: no look",
        ),
        Metric(
            "own_image",
            title="words nearer in their image",
            words="tokens nearer to what they gather in their image than in the next; .5: no look",
        ),
    ),
}
NAMED = {metric.name: (task, metric) for task, own in DECLARED.items() for metric in own}


def described(name: str) -> tuple[str, Metric]:
    """(heading, metric) of a study's 'i2t R@1', 'cosine i2t R@1', 'K_P' ...; what an evaluation's
    `name` puts before it ('val K_P') goes into the heading, and an unknown metric explains itself
    by its name.
    """
    words = name.split()
    for cut in range(len(words)):
        own = " ".join(words[cut:]).replace("cosine ", "pooled_").replace(" ", "_")
        if own in NAMED:
            task, metric = NAMED[own]
            return f"{task} ({' '.join(words[:cut])})" if cut else task, metric
    return OTHER, Metric(name, title=name)
