"""What an objective sees of a batch: both towers on its images and texts, its views and concepts
included.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.types import Batch, Features, ImageFeatures


def features_of(encoder: DualEncoder, objective: Objective, batch: Batch) -> Features:
    """The features of a batch that `Objective.forward` takes."""
    trained = {*objective.coupled_features, *objective.paired_features}
    if batch.concepts is not None and "concept" in trained:
        return _of_concepts(encoder, batch)
    image = ImageFeatures(None, None, None)
    if objective.sees_images:
        image = encoder.image_features(batch.image)
    text = encoder.text_features(batch.ids, batch.mask, batch.special)
    features = Features.of(image, text)
    if "word_table" in trained:
        features.word_table = encoder.text.word_table
    if batch.views is not None:
        for name, text in batch.views.texts.items():
            features.views[name] = encoder.text_features(text.ids, text.mask, text.special)
        for name, image in batch.views.images.items():
            if name in batch.views.still and name in batch.views.taught:
                continue  # the teacher has seen it
            with torch.no_grad() if name in batch.views.still else nullcontext():
                features.views[name] = _seen(encoder, image)
    return features


def _seen(encoder: DualEncoder, image: Tensor) -> ImageFeatures:
    if image.ndim == 5:
        return ImageFeatures(None, None, encoder.pooled_states(image))
    return encoder.image_features(image)


def _of_concepts(encoder: DualEncoder, batch: Batch) -> Features:
    """Of a batch with concepts. Its captions are slot 0 of these, so they are encoded once."""
    concepts, views, masked = batch.concepts, batch.views, batch.views.texts["masked"]
    image = encoder.image_features(batch.image)
    text, masked = (
        encoder.packed_text_features(one.ids, one.mask, one.special, views.places(name))
        for name, one in (("texts", concepts), ("masked", masked))
    )
    first = {k: v[:, 0] for k, v in vars(text).items()}
    return Features(
        **vars(image),
        **first,
        concept=encoder.concept_features(image.patch_states, concepts.box, concepts.valid),
        concept_text=text.text,
        concept_states=text.token_states,
        masked_states=masked.token_states,
        word_table=encoder.text.word_table,
    )
