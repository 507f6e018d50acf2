"""What the report reads: evaluations, training logs and run folders below work dirs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparc_pretrain import json_file
from sparc_pretrain.metric import Metric, short
from sparc_pretrain.run_folder import MANIFEST, WEIGHTS, RunFolder, open_run

RANDOM = "random initialisation"
OBJECTS = ("described", "protocol", "backbone", "versions", "per_class")  # of a record
TEXTS = ("task", "config", "data", "date")
# Objective of the run folder -> how it is called, where that is not its name in capitals.
STARTS = {"Sparc": "SPARC", "Clip": "CLIP", "Filip": "FILIP", "Pacl": "PACL", "Mgca": "MGCA"}
STARTS |= {"Gloria": "GLoRIA", "Siglip": "SigLIP", "Xvlm": "X-VLM", "Uniter": "UNITER"}
OF_SPARC = ("SPARC", "SPARC+IC", "SPARC+CC")  # as published; with our contrasts across images
HEADS = {"bbox_": "detection", "mIoU": "segmentation", "CIDEr": "captioning"}
KINDS = ("retrieval", "detection", "segmentation", "captioning")


@dataclass
class Evaluation:
    """One metrics.json and what lies beside it."""

    file: Path
    record: dict[str, Any]
    pictures: list[Path] = field(default_factory=list)
    captions: list[dict[str, Any]] = field(default_factory=list)
    retrieval: dict[str, Any] | None = None

    @property
    def task(self) -> str:
        return str(self.record["task"])

    @property
    def kind(self) -> str:
        """One of KINDS, or the task itself; foreign configs name none, their headline tells."""
        if self.task in KINDS:
            return self.task
        name = short(self.headline or "")
        return next((kind for sign, kind in HEADS.items() if name.startswith(sign)), self.task)

    def metric(self, name: str) -> Metric:
        """What is declared of a metric; a bare number that nobody judges where nothing is."""
        told = (self.record.get("described") or {}).get(name)
        return Metric(**told) if told else Metric(short(name), "number", None)

    @property
    def headline(self) -> str | None:
        """The metric that stands for this evaluation: the first that is declared so, else the
        first.
        """
        names = list(self.metrics)
        return next((n for n in names if self.metric(n).headline), names[0] if names else None)

    @property
    def metrics(self) -> dict[str, float | None]:
        return self.record["metrics"]

    def captions_by_image(self) -> dict[int, list[str]]:
        """What the retrieval's file says of each image, by its number."""
        told, texts = self.retrieval or {}, {}
        pairs = zip(told.get("captions", []), told.get("image_of_text", []), strict=False)
        for text, owner in pairs:
            texts.setdefault(owner, []).append(text)
        return texts

    @property
    def backbone(self) -> dict[str, Any]:
        """Run, sha256 and objective; empty for random initialisation."""
        return self.record.get("backbone") or {}

    @property
    def start(self) -> str:
        """Where the backbone comes from, in words: SPARC, CLIP, random initialisation, ..."""
        if not self.backbone:
            return RANDOM
        told = {"type": self.backbone.get("objective"), **self.backbone}
        return called(told) or str(self.backbone.get("run") or "unknown")

    @property
    def setting(self) -> tuple[str, str, str]:
        """Evaluations with an equal setting can be compared: kind, config, data."""
        return self.kind, str(self.record.get("config") or ""), str(self.record.get("data") or "")

    @property
    def place(self) -> str:
        """A short name of the data: 'flickr8k' of 'data/flickr8k/captions_val.json'."""
        return place(str(self.record.get("data") or ""))


@dataclass
class TrainingLog:
    """The rows of a work dir's scalars.json files in order of steps: those of training, and those
    of the `validations` between them, each at the training step before it.
    """

    folder: Path
    rows: list[dict[str, float]]
    run: RunFolder | None = None  # that the training has made: it is a pre-training
    validations: list[dict[str, float]] = field(default_factory=list)

    def series(self, key: str, held_out: bool = False) -> list[tuple[float, float]]:
        """(step, value) of `key`, in training or in validations."""
        rows = self.validations if held_out else self.rows
        return [(row["step"], row[key]) for row in rows if key in row]


@dataclass
class Found:
    """All that was found below the work dirs."""

    evaluations: list[Evaluation]
    logs: list[TrainingLog]
    runs: list[RunFolder]


def gather(work_dirs: Sequence[Path]) -> Found:
    """Read everything below `work_dirs`.

    Raises:
        FileNotFoundError: a work dir that is not there. ValueError: no metrics.json, or a file
            that is not what its name says.
    """
    for folder in work_dirs:
        if not folder.is_dir():
            raise FileNotFoundError(f"no work dir {folder}")
    evaluations = [_evaluation(file) for file in _files(work_dirs, "metrics.json")]
    if not evaluations:
        raise ValueError(
            f"no metrics.json under {', '.join(map(str, work_dirs))}: tools/train.py, "
            "tools/test.py and tools/zeroshot.py write them"
        )
    evaluations = [one for one in evaluations if not _tested_again(one, evaluations)]
    order = [*OF_SPARC, *STARTS.values(), RANDOM]
    evaluations.sort(
        key=lambda e: (
            KINDS.index(e.kind) if e.kind in KINDS else len(KINDS),
            e.setting,
            order.index(e.start) if e.start in order else len(order),
            str(e.record.get("date")),
        )
    )
    logs: dict[Path, list[Path]] = {}
    for file in _files(work_dirs, "vis_data/scalars.json"):
        logs.setdefault(file.parents[2], []).append(file)
    folders = {f.parent.resolve() for f in _files(work_dirs, MANIFEST) if _is_run(f.parent)}
    runs = {folder: open_run(folder) for folder in sorted(folders)}
    made = {folder.parent: run for folder, run in runs.items()}
    read = [_log(folder, files, made.get(folder.resolve())) for folder, files in logs.items()]
    return Found(evaluations, [log for log in read if log.rows], list(runs.values()))


def style(start: str) -> str:
    """How a start is drawn: a class of the page's style sheet."""
    name = start.partition(" (")[0].partition("+")[0].lower()
    name = "random" if start.startswith(RANDOM) else name
    return name if name in ("sparc", "clip", "random", "chance") else "other"


def called(objective: dict[str, Any] | str | None) -> str:
    """The name of an objective in words, '' for none: SPARC; SPARC+IC where tokens, SPARC+CC where
    captions are held against other images.
    """
    told = objective if isinstance(objective, dict) else {"type": objective}
    name = str(told.get("type") or "").rpartition(".")[2]
    name = STARTS.get(name, name)
    if not told.get("image_contrast"):
        return name
    return f"{name}+CC" if told.get("contrast_of") == "captions" else f"{name}+IC"


def place(data: str) -> str:
    """The name of a data set from the path of one of its files."""
    parts = Path(data.split(",")[0].strip()).parts
    if "data" in parts[:-1]:
        parts = parts[parts.index("data") + 1 :]
        return parts[0] if len(parts) > 1 else Path(parts[0]).stem
    return Path(parts[-1]).stem if parts else "unnamed data"


def _files(work_dirs: Sequence[Path], name: str) -> Iterator[Path]:
    """Files below the work dirs, each once, in order; folders that begin with a dot are drafts."""
    seen = set()
    for folder in work_dirs:
        for file in sorted(folder.rglob(name)):
            hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
            if not hidden and file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _is_run(folder: Path) -> bool:
    return (folder / WEIGHTS).exists()


def _tested_again(one: Evaluation, evaluations: Sequence[Evaluation]) -> bool:
    """Whether the test of a training's checkpoint, WORK_DIR/test, says anew what its last
    validation said: one run is not two.
    """
    test = one.file.with_name("test") / one.file.name
    return any(
        other.file == test and (other.setting, other.backbone) == (one.setting, one.backbone)
        for other in evaluations
    )


def _record(file: Path) -> dict[str, Any]:
    """A metrics.json whose parts are of the kinds that they should be."""
    record = json_file.read(file)
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict):
        raise ValueError(f"{file} is no record of an evaluation: 'metrics' is missing")
    if "task" not in record:
        raise ValueError(f"{file} is no record of an evaluation: 'task' is missing")
    for name in OBJECTS:
        if not isinstance(record.get(name), dict | None):
            raise ValueError(f"{file}: {name} is no object")
    for name in TEXTS:
        if not isinstance(record.get(name), str | None):
            raise ValueError(f"{file}: {name} is no text")
    classes = record.get("per_class") or {}
    for name, values in {"metrics": record["metrics"], **classes}.items():
        numbers = values.values() if isinstance(values, dict) else [values]
        sound = all(one is None or type(one) in (int, float) for one in numbers)
        if not (sound and isinstance(values, dict)):
            raise ValueError(f"{file}: {name} holds something else than numbers by their names")
    for name, told in (record.get("described") or {}).items():
        try:
            words = vars(Metric(**told))
        except TypeError:
            words = {}
        if not all(isinstance(words.get(key), str) for key in ("name", "unit", "words", "title")):
            raise ValueError(f"{file}: described.{name} does not describe a metric")
    return record


def _evaluation(file: Path) -> Evaluation:
    record = _record(file)
    captions, retrieval = file.with_name("captions.json"), file.with_name("retrieval.json")
    found = Evaluation(file, record, sorted((file.parent / "pictures").glob("*.png")))
    if captions.exists():
        found.captions = json_file.read(captions)
        if not isinstance(found.captions, list) or not all(
            isinstance(row, dict) and {"image", "caption"} <= row.keys() for row in found.captions
        ):
            raise ValueError(f"{captions} is not a list of image, caption, references")
    if retrieval.exists():
        found.retrieval = json_file.read(retrieval)
        if not isinstance(found.retrieval, dict) or not {"images", "examples"} <= set(
            found.retrieval
        ):
            raise ValueError(f"{retrieval} holds no 'images' and 'examples'")
        try:
            rows = set(range(len(found.retrieval["images"])))
            answers = [{*one["answers"], one["correct"]} for one in found.retrieval["examples"]]
        except (KeyError, TypeError):
            raise ValueError(f"{retrieval}: examples have no answers and correct rows") from None
        if not all(one <= rows for one in answers):
            raise ValueError(f"{retrieval}: an example names a row that 'images' does not have")
    return found


def _log(folder: Path, files: Sequence[Path], run: RunFolder | None) -> TrainingLog:
    """Join the logs of a work dir's starts: a resume continues, a fresh start replaces."""
    rows: list[dict[str, float]] = []
    held: list[dict[str, float]] = []
    for file in files:
        lines = json_file.read_text(file).splitlines()
        fresh, validated = [], []
        for n, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                if n == len(lines):  # a training that is under way, or was killed while it wrote
                    continue
                raise ValueError(f"{file}, line {n}: not JSON") from None
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {n}: no object")
            # validations of a pre-training have losses too, and retrieval
            if "loss" in row and "step" in row and not any("R@" in key for key in row):
                fresh.append(row)
            elif fresh:  # mmengine counts them by epochs, of which a training by steps has none
                validated.append({**row, "step": fresh[-1]["step"]})
        if fresh:
            rows = [row for row in rows if row["step"] < fresh[0]["step"]] + fresh
            held = [row for row in held if row["step"] < fresh[0]["step"]] + validated
    return TrainingLog(folder, rows, run, held)
