"""The names of a study's metrics in words: which task they are of, and what they say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Described:
    """A metric: the heading of its task, its short title, one line that explains it; `headline`:
    shown where there is room for few.
    """

    task: str
    title: str
    words: str
    headline: bool = False


RETRIEVAL = "Retrieval: whole images and captions"
FAITHFUL = "Faithfulness: words of the caption retrieved for an image"
CLASSES = "Classification: images by class names"
SEGMENTS = "Segmentation: pixels by class names"
GROUNDS = "Grounding: where a phrase points to"
REGIONS = "Regions: ground-truth boxes named"
LOSSES = "The local loss: does it look"
OTHER = "Other"

_TOKENS = "mean over the phrase's tokens, read in their sentence"
METRICS = {
    "i2t R@1": Described(
        RETRIEVAL, "image to text R@1", "a caption of the image comes first, read as trained"
    ),
    "t2i R@1": Described(
        RETRIEVAL, "text to image R@1", "the caption's image comes first, read as trained"
    ),
    "i2t R@5": Described(RETRIEVAL, "image to text R@5", "among the first five", True),
    "t2i R@5": Described(RETRIEVAL, "text to image R@5", "among the first five", True),
    "cosine i2t R@1": Described(
        RETRIEVAL, "image to text R@1, cosine", "by cosine of pooled embeddings, any objective"
    ),
    "cosine t2i R@1": Described(RETRIEVAL, "text to image R@1, cosine", "likewise"),
    "cosine i2t R@5": Described(RETRIEVAL, "image to text R@5, cosine", "likewise"),
    "cosine t2i R@5": Described(RETRIEVAL, "text to image R@5, cosine", "likewise"),
    "R@5": Described(
        RETRIEVAL, "R@5, both ways", "mean of image to text and text to image, read as trained"
    ),
    "image_dependence": Described(
        LOSSES,
        "image dependence",
        "L_f (eq. 6) with the next image minus L_f with the own one, nats; 0: it does not look",
    ),
    "K_P": Described(
        FAITHFUL, "K-Precision", "share of its words that the image's own captions hold", True
    ),
    "K_Pna": Described(FAITHFUL, "K-Precision, content", "the same of nouns and adjectives"),
    "class_top1": Described(CLASSES, "image top-1", "its class comes first, read as trained", True),
    "class_top5": Described(CLASSES, "image top-5", "among the first five"),
    "paper_mIoU": Described(
        SEGMENTS, "mIoU per image", "over the classes in the image, as SPARC's paper averages", True
    ),
    "things_mIoU": Described(
        SEGMENTS, "mIoU of things", "per image over the things that it shows", True
    ),
    "stuff_mIoU": Described(SEGMENTS, "mIoU of stuff", "the same of backgrounds"),
    "local_pointing": Described(
        GROUNDS, "tokens, local patches", f"hottest patch hits; patches by g_v, {_TOKENS}"
    ),
    "grouping_pointing": Described(
        GROUNDS, "SPARC's weights", f"patches weighted by eqs. 2-4, {_TOKENS}"
    ),
    "global_pointing": Described(
        GROUNDS, "tokens, global patches", f"patches by g_v after h_v, {_TOKENS}"
    ),
    "phrase_pointing": Described(
        GROUNDS,
        "phrase alone",
        "its global embedding against g_v after h_v, which FILIP and PACL do not train",
        True,
    ),
    "phrase_local_pointing": Described(
        GROUNDS, "phrase, local patches", "its global embedding against patches by g_v", True
    ),
    "words_pointing": Described(
        GROUNDS,
        "words, local patches",
        "the phrase's tokens, free of context where they were trained so, against patches by g_v",
    ),
    "word_pointing": Described(
        GROUNDS, "single words", "each word but articles, read as the line above", True
    ),
    "colour_pointing": Described(GROUNDS, "colour words", "likewise"),
    "category_pointing": Described(GROUNDS, "category words", "likewise"),
    "trained_pointing": Described(
        GROUNDS, "phrase, trained patches", "the same against patches as the objective trains", True
    ),
    "top1": Described(REGIONS, "top-1", "the box's class comes first", True),
    "top5": Described(REGIONS, "top-5", "among the first five"),
}


def described(metric: str) -> Described:
    """The words of a metric; what an evaluation's `name` puts before it stays in the title, and an
    unknown metric explains itself by its name.
    """
    if metric in METRICS:
        return METRICS[metric]
    known = [name for name in METRICS if metric.endswith(f" {name}")]
    if not known:
        return Described(OTHER, metric, "")
    name = max(known, key=len)
    prefix, of = metric.removesuffix(f" {name}"), METRICS[name]
    return Described(f"{of.task} ({prefix})", of.title, of.words, of.headline)
