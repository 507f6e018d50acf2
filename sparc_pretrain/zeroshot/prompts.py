"""Class names and prompt templates, and the scores of classes from the scores of their prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sparc_pretrain import json_file
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import unit
from sparc_pretrain.types import TextFeatures
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.choices import ENSEMBLES

LABEL = "{}"
PLACE = re.compile(r"\{\w*\}")  # {}, and the {c} and {label} of published lists
TextBatches = list[TextFeatures]


def templates(source: str = "label", suffixes: Sequence[str] = ()) -> list[str]:
    """Prompt templates, each with one '{}' where the label goes.

    Args:
        source: 'label' = the class name alone (SPARC's single prompt), 'openai' = CLIP's 80 (from
            open_clip's wheel), or a text file with one template per line.
        suffixes: FILIP's way, '[prefix]{label}, [suffix]': every template (without its full stop)
            with every suffix, e.g. "I like it.".

    Raises:
        FileNotFoundError, or ValueError naming the line without a place for the label.
    """
    if source == "label":
        found = [LABEL]
    elif source == "openai":
        from open_clip import OPENAI_IMAGENET_TEMPLATES  # heavy, and needed by few

        found = [template(LABEL) for template in OPENAI_IMAGENET_TEMPLATES]
    else:
        found = _read_templates(Path(source))
    if not suffixes:
        return found
    return [f"{template.rstrip('. ')}, {suffix}" for template in found for suffix in suffixes]


def _read_templates(path: Path) -> list[str]:
    if not path.exists():
        raise FileNotFoundError(f"no templates {path}: use 'label', 'openai' or a text file")
    found = []
    for number, line in enumerate(json_file.read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        if len(PLACE.findall(line)) != 1:
            raise ValueError(f"{path}, line {number}: needs one '{{}}' for the label: {line!r}")
        found.append(PLACE.sub("{}", line.strip()))
    if not found:
        raise ValueError(f"{path} holds no template")
    return found


def fill(template: str, label: str) -> str:
    """The prompt of a label (a brace in the label stays what it is)."""
    before, _, after = template.partition(LABEL)
    return before + label + after


def read_classes(path: str | Path) -> list[str]:
    """Class names in the order of their labels.

    From text (one per line), JSON (a list; or "classes" or COCO's and LVIS's "categories", names or
    records with "name"), or CSV with a column Name (ADE20K's objectInfo150.csv).

    Raises:
        FileNotFoundError; ValueError when there are none, or a name is blank.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        data = json_file.read(path, what="class names")
        if isinstance(data, dict):
            data = data.get("classes") or data.get("categories")
        rows = data if isinstance(data, list) else []
        names = [row.get("name") if isinstance(row, dict) else row for row in rows]
    elif path.suffix.lower() == ".csv":
        names = [row.get("Name") for _, row in json_file.read_csv(path, what="class names")[1]]
    else:
        lines = json_file.read_text(path, what="class names").splitlines()
        names = [line for line in lines if line.strip()]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{path} holds no list of class names (text, JSON, or CSV with Name)")
    return [name.strip() for name in names]


def synonyms(name: str) -> list[str]:
    """The names of a class: 'building;edifice' and 'person, man' are two each."""
    return [part.strip() for part in re.split(r"[;,]", name) if part.strip()]


def spoken(name: str) -> str:
    """A category as people say it: LVIS's 'bed_sheet_(cover)' is 'bed sheet'."""
    return re.sub(r"\s*\([^)]*\)", "", name.replace("_", " ")).strip() or name


def spoken_apart(names: Sequence[str]) -> list[str]:
    """All categories as people say them; those that would be the same keep what is in brackets:
    LVIS's 'bow_(weapon)' and 'bow_(decorative_ribbons)' are 'bow, weapon' and 'bow, decorative
    ribbons'.
    """
    said = [spoken(name) for name in names]
    found = []
    for name, short in zip(names, said, strict=True):
        parts = re.split(r"\s*[()]\s*", name.replace("_", " ").strip(" )"))
        found.append(", ".join(parts) if said.count(short) > 1 else short)
    return found


def how_merged(reader: Objective, ensemble: str) -> str:
    """'embedding' or 'score', as `ensemble` says; 'auto' averages embeddings where there are any.

    Raises ValueError for an ensemble of embeddings of a reader that compares tokens.
    """
    if ensemble not in ENSEMBLES:
        raise ValueError(f"ensemble {ensemble!r}: use one of {', '.join(ENSEMBLES)}")
    tokenwise = bool({"tokens", "token_states"} & {*encode.reads_of([reader])})
    if ensemble == "embedding" and tokenwise:
        raise ValueError(
            f"{type(reader).__name__} compares tokens, whose embeddings cannot be averaged: use "
            "--ensemble score"
        )
    return "score" if tokenwise or ensemble == "score" else "embedding"


class ClassTexts:
    """The prompts of some classes, encoded once for several readers.

    Args:
        labels: K class names. templates: M prompts each. ensemble: 'embedding' = the mean of
            unit embeddings (CLIP), 'score' = the mean of scores (FILIP), 'auto' = the first where
            the reader reads global embeddings.
    """

    def __init__(
        self,
        model: DualEncoder,
        readers: Mapping[str, Objective],
        labels: Sequence[str],
        templates: Sequence[str],
        ensemble: str = "auto",
        batch_size: int = 256,
    ) -> None:
        self.count = len(templates)
        self.merged = {name: how_merged(reader, ensemble) for name, reader in readers.items()}
        prompts = [fill(template, label) for label in labels for template in templates]
        kept = encode.reads_of(readers.values())
        batches = encode.encode_texts(model, prompts, kept, batch_size)
        self.texts: dict[str, TextBatches] = {
            name: [class_embeddings(batches, self.count)] if how == "embedding" else batches
            for name, how in self.merged.items()
        }

    def class_scores(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores [I,K*M] or [I,K] of each reader -> [I,K]."""
        return {
            name: merge_scores(value, self.count) if self.merged[name] == "score" else value
            for name, value in scores.items()
        }


def merge_scores(scores: Tensor, prompts: int) -> Tensor:
    """FILIP's ensemble: scores [I,K*M], class by class -> their mean over M prompts, [I,K]."""
    return scores.unflatten(1, (-1, prompts)).mean(dim=2)


def class_embeddings(batches: TextBatches, prompts: int) -> TextFeatures:
    """CLIP's ensemble: K*M encoded prompts -> K texts, the unit mean of M unit embeddings each."""
    text_KMD = unit(torch.cat([batch.text for batch in batches])).unflatten(0, (-1, prompts))
    text_KD = unit(text_KMD.mean(dim=1))
    nothing = text_KD[:, :0]
    flags = nothing.bool()
    return replace(
        batches[0], text=text_KD, tokens=nothing, token_states=nothing, mask=flags, special=flags
    )
