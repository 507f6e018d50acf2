"""A model's heats of phrases and words over patches, and what `grounding` says of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sparc_pretrain.data.images import eval_resize
from sparc_pretrain.data.sets.phrases import Phrase, PhraseImage
from sparc_pretrain.data.tokenizer import WORD, Encoding
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import unit
from sparc_pretrain.objectives.sparc import group_patches
from sparc_pretrain.zeroshot import box_reading, encode, grounding
from sparc_pretrain.zeroshot.alignment import grouping_of
from sparc_pretrain.zeroshot.encode import PooledCosine
from sparc_pretrain.zeroshot.faithfulness import ARTICLES
from sparc_pretrain.zeroshot.given_boxes import Boxes
from sparc_pretrain.zeroshot.outcome import Outcome
from sparc_pretrain.zeroshot.patch_reader import PatchReader

# Braces: how the run's patches are read, see `patch_reader`.
READINGS = {
    "local": "cosine of tokens and {local}, mean over the phrase's tokens",
    "grouping": "SPARC's alignment weights (eqs. 2-4) of tokens over {local}, mean over the "
    "phrase's tokens",
    "global": "cosine of tokens and {global}, mean over the phrase's tokens",
    "phrase": "cosine of the global embedding of the phrase alone and {global}",
    "phrase_local": "cosine of the global embedding of the phrase alone and {local}",
    "words": "cosine of {words} and {local}, mean over the phrase's tokens",
    "trained": "cosine of the global embedding of the phrase alone and {trained}, the patches that "
    "the objective trains",
}
_POINTING = "the hottest patch lies in the phrase's object"
METRICS = (
    Metric(
        "phrase_local_pointing",
        headline=True,
        title="phrase points, local patches",
        words=f"{_POINTING}; the phrase's global embedding against patches by g_v",
    ),
    Metric(
        "phrase_pointing",
        title="phrase points, global patches",
        words=f"{_POINTING}; against g_v after h_v, which FILIP and PACL do not train",
    ),
    Metric(
        "trained_pointing",
        title="phrase points, trained patches",
        words=f"{_POINTING}; against patches as the objective trains them",
    ),
    Metric("local_pointing", title="tokens point, local patches", words=_POINTING),
    Metric("words_pointing", title="words point, local patches", words=_POINTING),
    Metric("word_pointing", title="a single word points", words="every occurrence counts once"),
    Metric("global_pointing", title="tokens point, global patches", words=_POINTING),
    Metric("grouping_pointing", title="SPARC's weights point", words=f"{_POINTING}; eqs. 2-4"),
    Metric("*_box_recall", words="boxes drawn round the heat, found at IoU 0.5"),
    Metric("*_box_IoU", words="mean IoU of boxes drawn round the heat"),
    Metric("*_word_IoU", words="patches that a word lights up against those of its object"),
)
Values = dict[str, list[float]]


def token_positions(encoding: Encoding, start: int, end: int) -> list[int]:
    """The tokens of `encoding` that lie in characters [start, end) of its text."""
    return [
        i
        for i, (a, b) in enumerate(encoding.spans)
        if not encoding.special[i] and a < end and b > start
    ]


def words_of(phrase: Phrase) -> list[tuple[str, int, int]]:
    """The words of a phrase, lower case, with their places in its sentence; articles only when
    there is nothing else.
    """
    found = [(m.group().lower(), *m.span()) for m in WORD.finditer(phrase.sentence)]
    inside = [w for w in found if w[1] >= phrase.start and w[2] <= phrase.end and w[0][0].isalnum()]
    return [w for w in inside if w[0] not in ARTICLES] or inside


@torch.inference_mode()
def heats_of(
    model: DualEncoder,
    image: Tensor,
    phrases: Sequence[Phrase],
    size: int = 0,
    objective: Objective | None = None,
) -> dict[str, list[tuple[Tensor, dict[tuple[str, int, int], Tensor]] | None]]:
    """For each of READINGS, and each phrase: its heat [h,w], and those of its words.

    None for a phrase that the text tower's longest caption cuts off. The readings of the phrase
    alone ('phrase', 'phrase_local', 'trained') have no words.

    Args:
        image: [3,H,W] uint8, squashed to `size` pixels a side (0 = the training size). objective:
            of the model, which says how its patches are read; None = CLIP's way.
    """
    side = size or model.vision.img_size
    pixels = eval_resize(image, side, "squash")[None].to(model.mean.device)
    states = model.vision(model.normalize(pixels))
    local, whole, trained = (
        PatchReader.of(objective, head)(model, states) for head in ("local", "global", None)
    )
    grid = (side // model.vision.patch, side // model.vision.patch)
    sentences = list(dict.fromkeys(phrase.sentence for phrase in phrases))
    texts = model.text_features(*model.tokenize(sentences))
    tokens_STD, words = texts.tokens, (objective or PooledCosine()).word_features
    rows = {
        "words": unit(getattr(texts, words)) @ unit(local[0]).T,
        "local": unit(tokens_STD) @ unit(local[0]).T,
        "grouping": group_patches(
            tokens_STD, local.expand(len(sentences), -1, -1), **grouping_of(model)
        )[1],
        "global": unit(tokens_STD) @ unit(whole[0]).T,
    }
    maps = {name: row.float().cpu().unflatten(-1, grid) for name, row in rows.items()}
    alone_ND = unit(model.encode_text([p.text for p in phrases]))
    patches = {"phrase": whole, "phrase_local": local, "trained": trained}
    alone = {
        name: (alone_ND @ unit(of[0]).T).float().cpu().unflatten(-1, grid)
        for name, of in patches.items()
    }
    encodings = [model.tokenizer.encode(text, model.text.max_tokens) for text in sentences]
    found: dict[str, list] = {name: [] for name in READINGS}
    for number, phrase in enumerate(phrases):
        row = sentences.index(phrase.sentence)
        spots = {w: token_positions(encodings[row], w[1], w[2]) for w in words_of(phrase)}
        every = [i for spot in spots.values() for i in spot]
        cut = not spots or not all(spots.values())
        for name, map_STHW in maps.items():
            words = {w: map_STHW[row][spot].mean(dim=0) for w, spot in spots.items() if spot}
            found[name].append(None if cut else (map_STHW[row][every].mean(dim=0), words))
        for name, map_Nhw in alone.items():
            found[name].append(None if cut else (map_Nhw[number], {}))
    return found


def readings_of(objective: Objective | None) -> dict[str, str]:
    """READINGS in the words of an objective, for the protocol."""
    free = (objective or PooledCosine()).word_features == "words"
    words = {
        "local": PatchReader.of(objective, "local").formula(),
        "global": PatchReader.of(objective, "global").formula(),
        "trained": PatchReader.of(objective).formula(),
        "words": "context-free tokens" if free else "tokens",
    }
    return {name: text.format(**words) for name, text in READINGS.items()}


def evaluate(
    model: DualEncoder,
    data: Sequence[PhraseImage],
    size: int = 0,
    objective: Objective | None = None,
    constant: Tensor | None = None,
    given: Boxes | None = None,
) -> Outcome:
    """Pointing accuracy, box recall and box IoU of phrases, mask IoU of words, and chance.

    `apart["spoken"]` holds each word: (word, its image's row, whether its hottest patch hits in the
    reading 'words', a random patch's chance of that).

    Args: objective: see `heats_of`; one that predicts boxes is read so too, beside the box
        `constant`, and one that reads regions takes them of `given` (see `box_reading`).

    Raises ValueError: a model without text tower, an image of another size than its boxes, `size`
    no multiple of the patch.
    """
    if model.text is None or model.tokenizer is None:
        raise ValueError("phrases cannot be grounded: this run has no text tower or no tokenizer")
    side = size or model.vision.img_size
    if side % model.vision.patch:
        raise ValueError(f"--size {side} is no multiple of the patch, {model.vision.patch}")
    if objective is not None and not objective.shares_space:
        return box_reading.outcome(model, objective, data, size, constant, given)
    grid = (side // model.vision.patch,) * 2
    values: Values = defaultdict(list)
    by_word: dict[str, Values] = defaultdict(lambda: defaultdict(list))
    by_type: dict[str, Values] = defaultdict(lambda: defaultdict(list))
    owners, cut = [], 0
    spoken: list[tuple[str, int, float, float]] = []
    for row, item in enumerate(tqdm(data, desc="images", unit="image", disable=None)):
        if not item.phrases:
            continue
        image, extent = encode.open_image(item.file), (item.height, item.width)
        if tuple(image.shape[-2:]) != extent:
            raise ValueError(
                f"{item.file} has {image.shape[-1]} x {image.shape[-2]} pixels, its boxes are of "
                f"{item.width} x {item.height}"
            )
        heats = heats_of(model, image, item.phrases, size, objective)
        for number, phrase in enumerate(item.phrases):
            owners.append(row)
            found = grounding.chance_values(phrase.boxes, grid, extent)
            truth = grounding.covered_patches(phrase.mask(*extent), grid)
            cut += heats["local"][number] is None
            for name in READINGS:
                heat = heats[name][number]
                if heat is None:  # the model has not read it: a miss
                    found |= {f"{name}_{key}": 0.0 for key in grounding.METRICS}
                    continue
                scored = grounding.phrase_values(heat[0], phrase.boxes, extent)
                found |= {f"{name}_{key}": value for key, value in scored.items()}
                for (word, _, _), word_heat in heat[1].items():
                    iou = grounding.mask_iou(grounding.selected(word_heat), truth)
                    by_word[word][f"{name}_word_IoU"].append(iou)
                    if name == "words":
                        hits = grounding.hit_patches(phrase.boxes, grid, extent)
                        hit = grounding.pointing(word_heat, hits)
                        by_word[word]["word_pointing"].append(hit)
                        spoken.append((word, row, hit, hits.double().mean().item()))
                    if name == "local":
                        share = truth.double().mean().item()
                        by_word[word]["chance_whole_image_word_IoU"].append(share)
            for key, value in found.items():
                values[key].append(value)
                for kind in phrase.types:
                    by_type[kind][key].append(value)
    boxed = objective is not None and objective.ground is not None
    if boxed:
        values |= box_reading.evaluate(model, objective, data, size, constant)
    metrics = {key: fmean(found) for key, found in values.items()} | _word_means(by_word)
    protocol = {
        "images": len(data),
        "phrases": len(owners),
        "phrases_cut_off": cut,
        "masks": "exact" if any(p.masks for i in data for p in i.phrases) else "boxes",
        "readings": readings_of(objective) | (box_reading.FORMULAS if boxed else {}),
        "pointing": "the centre of the hottest patch in any of the phrase's boxes; ties shared",
        "box": f"round the hottest piece above {grounding.LEVEL} of the heat's range, against the "
        f"union of the phrase's boxes, found at IoU {grounding.IOU}",
        "word_IoU": f"patches above {grounding.LEVEL} of the range against patches half covered",
        "words": "articles are left out",
        "resize": "squash",
        "img_size": side,
        "patches": grid[0] * grid[1],
    }
    extra = {"words": _table(by_word), "types": _table(by_type)}
    declared = (*box_reading.METRICS, *METRICS)
    return Outcome(metrics, protocol, dict(values), owners, extra, declared, {"spoken": spoken})


def _word_means(by_word: dict[str, Values]) -> dict[str, float]:
    """Every occurrence of a word counts once."""
    joined: Values = defaultdict(list)
    for values in by_word.values():
        for key, found in values.items():
            joined[key] += found
    return {key: fmean(found) for key, found in joined.items()}


def _table(groups: dict[str, Values]) -> dict[str, dict[str, Any]]:
    """name -> how often, and the mean of each metric; the most frequent first."""
    rows = {
        name: {"count": len(next(iter(values.values())))}
        | {key: round(fmean(found), 4) for key, found in values.items()}
        for name, values in groups.items()
    }
    return dict(sorted(rows.items(), key=lambda row: -row[1]["count"]))
