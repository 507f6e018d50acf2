"""A detector of whatever words name: both towers of a run folder, fine-tuned as OWL-ViT does it
(Minderer et al., arXiv 2205.06230), which is how SPARC was tested (its sec. 4.4).

Importing this module imports mmdet; configs do it by `custom_imports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_convert

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.distributed import total, world_size
from sparc_pretrain.registry import MODELS
from sparc_pretrain.towers.text import TextTower
from transfer.detection.mmdet_bases import BaseDetector
from transfer.detection.open_vocabulary import losses
from transfer.detection.open_vocabulary.heads import (
    BoxHead,
    ClassHead,
    PooledGate,
    class_logits,
    drop_text_blocks,
)
from transfer.detection.open_vocabulary.prompts import spoken, templates
from transfer.detection.open_vocabulary.targets import targets

PROMPTS_AT_ONCE = 512  # that the text tower reads together at test time


@MODELS.register_module()
class OpenVocabularyDetector(BaseDetector):
    """Every patch proposes a box and an embedding, which is compared with those of words.

    Args:
        backbone: a SparcViT; its `run` gives the text tower's and the adapters' weights as well.
        text: the text tower's architecture, `config.json`'s `text`; width: D, its `width`. Written
            by ``--backbone RUN``.
        tokenizer: tokenizer.json; None is for looking at the architecture only.
        pooled_gate: patches are multiplied with the pooled image, see `PooledGate`. Without it the
            class head starts on the very embeddings that pre-training compared with words.
        prior, scale: see `ClassHead`. text_drop_path: see `drop_text_blocks`.
        train_templates: one is drawn per word and step. test_templates: the ensemble.
        classes: the words to look for when an image brings none (`tools/predict.py`).
        test_cfg: `score_thr`, `max_per_img`, and `nms_iou` (None = none, as OWL-ViT).

    Images come with words: in training those that `FederatedQueries` chose, in evaluation all of
    the data set's classes (`text`). Any list of words will do at any time.

    Raises:
        ValueError: a tokenizer that does not belong to the text tower, a run without one or with
            another one; an image without words.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        text: dict[str, Any],
        width: int,
        tokenizer: str | None = None,
        pooled_gate: bool = True,
        prior: float = 0.01,
        scale: float = 1.0,
        text_drop_path: float = 0.0,
        train_templates: str | Sequence[str] = "clip",
        test_templates: str | Sequence[str] = "best",
        classes: Sequence[str] | None = None,
        test_cfg: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.backbone = MODELS.build(backbone)
        self.text = TextTower.from_config(dict(text))
        channels = self.backbone.out_channels
        self.g_t = nn.Linear(self.text.width, width)
        self.gate = PooledGate(channels) if pooled_gate else nn.Identity()
        self.class_head = ClassHead(channels, width, prior, scale)
        self.box_head = BoxHead(channels)
        drop_text_blocks(self.text.net, text_drop_path)
        self.tokenizer = None if tokenizer is None else Tokenizer.load(tokenizer)
        if self.tokenizer and self.tokenizer.vocab_size > self.text.settings["vocab_size"]:
            raise ValueError(
                f"{tokenizer} has {self.tokenizer.vocab_size} tokens, the text tower reads"
                f" {self.text.settings['vocab_size']}: they are not of the same run"
            )
        self.train_templates = templates(train_templates)
        self.test_templates = templates(test_templates)
        self.classes = None if classes is None else tuple(classes)
        self.test_cfg = {"score_thr": 0.0, "max_per_img": 300, "nms_iou": None, **(test_cfg or {})}
        self._cached: tuple[Any, Tensor] | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.forget())

    # ------------------------------------------------------------ weights

    def init_weights(self) -> None:
        """Both towers, g_t, and g_v as the class head's first projection, from the run folder.

        Not mmengine's walk over all children: it would call the text model's own `init_weights`.
        """
        self.backbone.init_weights()
        self._is_init = True
        if self.backbone.run is None:
            return
        run = run_folder.open_run(self.backbone.run)
        theirs, ours = run.config["text"], self.text.config()
        if theirs != ours or run.config["width"] != self.g_t.out_features:
            raise ValueError(
                f"{run.path} has the text tower {theirs} and width {run.config['width']}, the"
                f" config {ours} and width {self.g_t.out_features}: start with --backbone RUN"
            )
        self.text.load_state_dict(run.weights("text."))
        self.g_t.load_state_dict(run.weights("adapters.g_t."))
        self.class_head.project.load_state_dict(run.weights("adapters.g_v."))
        print_log(f"OpenVocabularyDetector: text tower and adapters from {run.path}", "current")

    def train(self, mode: bool = True) -> OpenVocabularyDetector:
        """Training mode; embeddings of words are made anew after it."""
        self.forget()
        return super().train(mode)

    def forget(self, *_: Any) -> None:
        """Drop the embeddings kept for the last list of words."""
        self._cached = None

    # ------------------------------------------------------------ words

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> unit vectors [len,D] in the shared space."""
        if self.tokenizer is None:
            raise ValueError("model.tokenizer is missing: --backbone RUN sets the run's own")
        encoded = self.tokenizer.batch(list(prompts), self.text.max_tokens)
        ids, mask = (part.to(self.g_t.weight.device) for part in encoded[:2])
        pooled_QC = self.text.pool(self.text(ids, mask), mask, ids)
        return F.normalize(self.g_t(pooled_QC).float(), dim=-1)

    def queries(self, words: Sequence[str]) -> Tensor:
        """Words -> unit vectors [Q,D]: in training under a template drawn for each, else the mean
        over the test templates (CLIP's ensemble), kept until the words or the mode change.
        """
        if self.training:
            drawn = torch.randint(len(self.train_templates), (len(words),)).tolist()
            pairs = zip(words, drawn, strict=True)
            return self.embed([self.train_templates[i].format(spoken(word)) for word, i in pairs])
        key = (tuple(words), self.g_t.weight.device)
        if self._cached is not None and self._cached[0] == key and not torch.is_grad_enabled():
            return self._cached[1]
        prompts = [t.format(spoken(word)) for word in words for t in self.test_templates]
        parts = [
            self.embed(prompts[i : i + PROMPTS_AT_ONCE])
            for i in range(0, len(prompts), PROMPTS_AT_ONCE)
        ]
        each_QTD = torch.cat(parts).unflatten(0, (len(words), len(self.test_templates)))
        query_QD = F.normalize(each_QTD.mean(dim=1), dim=-1)
        if not torch.is_grad_enabled():
            self._cached = (key, query_QD)
        return query_QD

    def words_of(self, sample: BaseDataElement) -> tuple[str, ...]:
        """What to look for in an image at test time: the words it brings, else `classes`."""
        words = sample.get("text") or self.classes
        if not words:
            raise ValueError(
                "no words to look for: give the dataset classes, or model.classes, or --words"
            )
        return tuple(words)

    # ------------------------------------------------------------ what mmdet calls

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """[B,3,H,W], normalised -> patch states [B,P,C] and the grid (rows, columns)."""
        map_BChw = self.backbone(batch_inputs)[-1]
        return self.gate(map_BChw.flatten(2).mT), tuple(map_BChw.shape[-2:])

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[BaseDataElement] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes [B,P,4] (cx, cy, w, h; shares of the input), and what `ClassHead` gives."""
        states_BPC, grid = self.extract_feat(batch_inputs)
        padded = [side * self.backbone.stride for side in grid]
        boxes_BP4 = self.box_head(states_BPC, grid)
        if padded != list(batch_inputs.shape[-2:]):  # the grid reaches beyond the image
            over = [padded[i] / batch_inputs.shape[i - 2] for i in (1, 0)]
            boxes_BP4 = boxes_BP4 * boxes_BP4.new_tensor([*over, *over])
        return boxes_BP4, *self.class_head(states_BPC)

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[BaseDataElement]
    ) -> dict[str, Tensor]:
        """`loss_cls`, `loss_bbox` (L1), `loss_giou`, each with weight 1 and divided by the number
        of objects (mean over processes).
        """
        samples = [targets(s, self.backbone.stride, batch_inputs) for s in batch_data_samples]
        words = tuple(dict.fromkeys(w for sample in samples for w in sample.words))
        place = {word: i for i, word in enumerate(words)}
        boxes_BP4, unit, shift, scale = self._forward(batch_inputs)
        logits_BPQ = class_logits(unit, shift, scale, self.queries(words)).float()
        sums = torch.zeros(3, device=boxes_BP4.device) + 0 * boxes_BP4.sum()
        count = sum(len(sample.labels) for sample in samples)
        with torch.autocast(boxes_BP4.device.type, enabled=False):
            for boxes_P4, logits_PQ, sample in zip(boxes_BP4, logits_BPQ, samples, strict=True):
                columns = torch.tensor([place[w] for w in sample.words], device=boxes_P4.device)
                known_PQ = torch.zeros_like(logits_PQ, dtype=torch.bool)
                known_PQ[:, columns] = sample.known_PQ
                labels_N = columns[sample.labels]
                cost = losses.matching_cost(logits_PQ, boxes_P4, labels_N, sample.boxes_N4)
                patches, objects = losses.match(cost)
                pair = losses.box_losses(boxes_P4[patches], sample.boxes_N4[objects])
                classes = losses.class_loss(logits_PQ, known_PQ, patches, labels_N[objects])
                sums = sums + torch.stack([classes, *pair])
        objects = total(torch.tensor(float(count), device=sums.device)) / world_size()
        names = ("loss_cls", "loss_bbox", "loss_giou")
        return dict(zip(names, sums / objects.clamp(min=1), strict=True))

    def predict(
        self,
        batch_inputs: Tensor,
        batch_data_samples: Sequence[BaseDataElement],
        rescale: bool = True,
    ) -> list[BaseDataElement]:
        """The best (patch, word) pairs of each image as `pred_instances`: bboxes [N,4] xyxy in
        pixels of the original image (`rescale`), scores, labels (places in the image's words) and
        label_names.
        """
        boxes_BP4, *parts = self._forward(batch_inputs)
        size = boxes_BP4.new_tensor(batch_inputs.shape[:-3:-1]).repeat(2)  # W, H, W, H
        corners_BP4 = box_convert(boxes_BP4, "cxcywh", "xyxy") * size
        found = []
        for i, sample in enumerate(batch_data_samples):
            words = self.words_of(sample)
            logits_PQ = class_logits(*(part[i] for part in parts), self.queries(words))
            found.append(self._best(corners_BP4[i], logits_PQ.float(), words, sample, rescale))
        return self.add_pred_to_datasample(list(batch_data_samples), found)

    def _best(
        self,
        corners_P4: Tensor,
        logits_PQ: Tensor,
        words: tuple[str, ...],
        sample: BaseDataElement,
        rescale: bool,
    ) -> InstanceData:
        scores = logits_PQ.sigmoid().flatten()
        scores, order = scores.topk(min(self.test_cfg["max_per_img"], len(scores)))
        order, scores = (part[scores > self.test_cfg["score_thr"]] for part in (order, scores))
        boxes, labels = corners_P4[order // len(words)], order % len(words)
        if self.test_cfg["nms_iou"] is not None:
            kept = batched_nms(boxes, scores, labels, self.test_cfg["nms_iou"])
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        height, width = sample.img_shape[:2]
        if rescale:
            boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
            height, width = sample.ori_shape[:2]
        limits = boxes.new_tensor([width, height, width, height])
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        names = [words[i] for i in labels.tolist()]
        return InstanceData(bboxes=boxes, scores=scores, labels=labels, label_names=names)
