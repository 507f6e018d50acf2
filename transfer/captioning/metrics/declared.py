"""What the numbers of captions are, for metrics.json."""

from __future__ import annotations

from sparc_pretrain.metric import Metric

CAPTIONS = (
    Metric("CIDEr", "score", headline=True, title="CIDEr (\u00d7100)"),
    *(Metric(f"BLEU-{n}", "score", title=f"BLEU-{n} (\u00d7100)") for n in (1, 2, 3, 4)),
    Metric("ROUGE-L", "score", title="ROUGE-L (\u00d7100)"),
    Metric("METEOR", "score", title="METEOR (\u00d7100)"),
    Metric("SPICE", "score", title="SPICE (\u00d7100)"),
    Metric("CLIPScore-like", "number"),
    Metric("K-Precision", words="share of its words that the references hold"),
    Metric("K-Precision-na", words="the same of nouns and adjectives"),
    Metric("CHAIR-*", higher_is_better=False, words="objects named that are not there"),
    Metric("object-recall", words="objects that are there and named"),
    Metric("scene-true", title="statements true"),
    Metric("scene-objects", title="objects true"),
    Metric("scene-colours", title="colours true"),
    Metric("scene-phrases", title="phrases true"),
    Metric("scene-counts", title="counts true"),
    Metric("scene-recall", title="objects recalled"),
    Metric("scene-relations", title="relations true"),
    Metric("scene-backgrounds", title="background true"),
    Metric("scene-captions", title="captions with nothing false"),
    Metric("scene-statements", "number", None, title="statements a caption"),
    Metric("scene-stray", "number", False, title="stray words a caption"),
    Metric("scene-*", words="share of such statements that are true"),
    Metric("CIDEr_*", "score"),
    Metric("BLEU-*", "score"),
    Metric("ROUGE-L_*", "score"),
)
ANSWERS = (Metric("accuracy", headline=True), Metric("exact-match"))
