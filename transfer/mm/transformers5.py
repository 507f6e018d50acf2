"""mmdet's language models on transformers 5, for which they were not written."""

from __future__ import annotations

import sys
from typing import Any

import torch


def mend_transformers() -> None:
    """Gives transformers two names back that mmdet's GLIP and Grounding DINO use. Idempotent.

    Reason: transformers 5 moved ``apply_chunking_to_forward`` to ``pytorch_utils``, at which mmdet
    takes the whole of BERT for missing, and renamed a tokenizer's ``batch_encode_plus`` to
    ``__call__``.
    Delete when: mmdet runs on transformers 5.
    """
    try:
        from transformers import modeling_utils, pytorch_utils, tokenization_utils_base
    except ImportError:  # mmdet goes without language models then, and so may we
        return
    if not hasattr(modeling_utils, "apply_chunking_to_forward"):
        modeling_utils.apply_chunking_to_forward = pytorch_utils.apply_chunking_to_forward
    tokenizer = tokenization_utils_base.PreTrainedTokenizerBase
    if not hasattr(tokenizer, "batch_encode_plus"):
        tokenizer.batch_encode_plus = tokenizer.__call__


def mend_bert() -> None:
    """Lets mmdet's BERTs run on transformers 5, if mmdet's import brought them. Idempotent.

    Reason: transformers 5 takes an attention mask per pair of tokens (Grounding DINO's, of
    sub-sentences) with a dimension for heads only, dropped ``get_extended_attention_mask``, which
    GLIP's layers inherited, and calls their attention by other names.
    Delete when: mmdet runs on transformers 5.
    """
    bert = sys.modules.get("mmdet.models.language_models.bert")
    kind = getattr(bert, "HFBertModel", None)
    if kind is not None and not hasattr(kind, "takes_pairs"):
        bert.HFBertModel = _taking_pairs(kind)
    fuse = sys.modules.get("mmdet.models.utils.vlfuse_helper")
    if fuse is not None and not hasattr(fuse.BertEncoderLayer, "get_extended_attention_mask"):
        fuse.BertEncoderLayer.get_extended_attention_mask = _extended_mask
        fuse.BertAttention.forward = _attend


def _taking_pairs(kind: Any) -> Any:
    """A BERT class whose attention mask may be [B,T,T], 1 where a token sees another."""

    class PairedBert(kind):
        takes_pairs = True

        def forward(self, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
            if attention_mask is not None and attention_mask.ndim == 3:
                attention_mask = attention_mask[:, None].bool()
            return super().forward(*args, attention_mask=attention_mask, **kwargs)

    return PairedBert


def _extended_mask(layer: Any, mask: Any, shape: Any, device: Any = None) -> Any:
    """What transformers 4 added to attention's logits: 0 where `mask` [B,T] or [B,T,T] is 1, the
    type's lowest number elsewhere; [B,1,1,T] or [B,1,T,T].
    """
    kind = next(layer.parameters()).dtype
    wide = mask[:, None] if mask.ndim == 3 else mask[:, None, None]
    return (1 - wide.to(kind)) * torch.finfo(kind).min


def _attend(attention: Any, states: Any, mask: Any = None, *_: Any, **__: Any) -> tuple:
    """``BertAttention.forward`` of transformers 4, as GLIP's layers call it: attention, then the
    projection with its residual.
    """
    outputs = attention.self(states, mask)
    return (attention.output(outputs[0], states), *outputs[1:])
