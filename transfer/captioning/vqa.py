"""Questions about images, in the VQA format (Antol et al., ICCV 2015, arXiv 1505.00468): the
captioner generates, the answer is compared.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

from sparc_pretrain import json_file
from sparc_pretrain.registry import DATASETS, METRICS
from transfer.captioning.data.dataset import ImageItems
from transfer.captioning.metrics.declared import ANSWERS

PROMPT = "Question: {} Answer:"
NUMBERS = dict(
    none="0", zero="0", one="1", two="2", three="3", four="4", five="5", six="6", seven="7",
    eight="8", nine="9", ten="10",
)  # fmt: skip
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# of the official list those that are English; a variable, so that it stays a list of words to read
CONTRACTIONS = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't
he'd he's how'd how'll how's i'm i've isn't it'd it'll let's ma'am mightn't might've mustn't must've
needn't not've o'clock oughtn't shan't should've shouldn't somebody's someone's something's that'd
that's there'd there're there's they'd they'll they're they've wasn't we've weren't what'll what're
what's what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't
would've wouldn't y'all you'd you'll you're you've"""
WRITTEN = {word.replace("'", ""): word for word in CONTRACTIONS.split()}


def normalise(answer: str) -> str:
    """An answer as the VQA evaluation compares it: lower case, no punctuation and articles, digits,
    contractions with their apostrophe.
    """
    text = " ".join(answer.split())
    out = text
    for mark in PUNCTUATION:
        apart = f"{mark} " in text or f" {mark}" in text or re.search(r"\d,\d", text)
        out = out.replace(mark, "" if apart else " ")
    out = re.sub(r"\.(?!\d)", "", out)
    words = [NUMBERS.get(word, word) for word in out.lower().split()]
    return " ".join(WRITTEN.get(word, word) for word in words if word not in ARTICLES)


def accuracy(answer: str, truths: Sequence[str]) -> float:
    """VQA accuracy: mean over the people of min(1, how many of the others said so / 3).

    With fewer than four people, all the others have to agree; with one, that one.
    """
    said, theirs = normalise(answer), [normalise(one) for one in truths]
    if len(theirs) == 1:
        return float(said == theirs[0])
    need = min(3, len(theirs) - 1)
    total = theirs.count(said)
    return sum(min(1.0, (total - (one == said)) / need) for one in theirs) / len(theirs)


def read_vqa(
    questions: str | Path, annotations: str | Path, image_name: str
) -> tuple[list[tuple[str, str, list[str]]], int]:
    """((image file, question, answers) of each question, how many had no answer and are left out).

    `image_name`: a question's image where it has no `image`, e.g. 'COCO_val2014_{:012d}.jpg'.

    Raises FileNotFoundError; ValueError naming the file for another format, for answers to a
    question that is not there, and when nothing is left.
    """
    asked: dict[Any, tuple[str, str]] = {}
    answers: dict[Any, list[str]] = {}
    file = questions
    try:
        for one in json_file.read(questions)["questions"]:
            name = one.get("image") or image_name.format(one["image_id"])
            asked[one["question_id"]] = (name, one["question"].strip())
        file = annotations
        for one in json_file.read(annotations)["annotations"]:
            texts = [answer["answer"].strip() for answer in one["answers"]]
            answers[one["question_id"]] = [text for text in texts if text]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not in the VQA format: {error!r}") from None
    unknown = sorted(str(number) for number in answers.keys() - asked.keys())
    if unknown:
        raise ValueError(f"{annotations} answers the question {unknown[0]}, not in {questions}")
    items = [(*asked[number], answers.get(number, [])) for number in asked]
    kept = [(name, question, texts) for name, question, texts in items if question and texts]
    if not kept:
        raise ValueError(f"{annotations} has no answer to a question of {questions}")
    return kept, len(items) - len(kept)


@DATASETS.register_module()
class VQADataset(ImageItems):
    """Questions with their images: `inputs`, and a `data_samples` with `image`, `prompt` (the
    question in `template`), `references` (all answers) and, in training, `caption` (the most
    frequent one).

    Args: ann_file: the questions. answers: the annotations, below `data_root` too. image_name: see
        `read_vqa`. The others: see `CaptionDataset`.
    """

    def __init__(
        self,
        ann_file: str,
        answers: str,
        data_prefix: Mapping[str, str],
        data_root: str = "",
        image_name: str = "{}",
        template: str = PROMPT,
        test_mode: bool = False,
        **options: Any,
    ) -> None:
        path = Path(data_root)
        items, left_out = read_vqa(path / ann_file, path / answers, image_name)
        if left_out:
            print_log(
                f"{path / ann_file}: {left_out} questions without answer, left out", "current"
            )
        self.questions = [template.format(question) for _, question, _ in items]
        folder = path / data_prefix["img"]
        named = [(name, texts) for name, _, texts in items]
        super().__init__(str(path / ann_file), folder, named, test_mode=test_mode, **options)

    @property
    def lengths(self) -> list[int]:
        """Words of each question."""
        return [len(question.split()) for question in self.questions]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See the class."""
        image, index = self._good_image(index)
        name, texts = self.items[index]
        meta = {"image": name, "prompt": self.questions[index], "references": texts}
        if not self.test_mode:
            meta["caption"] = Counter(texts).most_common(1)[0][0]
        return {"inputs": image, "data_samples": BaseDataElement(metainfo=meta)}


@METRICS.register_module()
class VQAMetric(BaseMetric):
    """`vqa/accuracy` and `vqa/exact-match` (with the most frequent answer), 0 to 1.

    Args: outfile_prefix: `PREFIXanswers.json` keeps what was said; None = in the work dir, by
        `RecordHook`; without it, nowhere.
    """

    default_prefix = "vqa"
    beside_record = True
    declared = ANSWERS

    def __init__(
        self,
        outfile_prefix: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.outfile_prefix = outfile_prefix

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep what is compared."""
        keys = ("image", "prompt", "prediction", "references")
        self.results += [{key: sample[key] for key in keys} for sample in data_samples]

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Means over questions."""
        for row in results:
            row["accuracy"] = accuracy(row["prediction"], row["references"])
            truth = Counter(map(normalise, row["references"])).most_common(1)[0][0]
            row["exact"] = float(normalise(row["prediction"]) == truth)
        if self.outfile_prefix is not None:
            path = Path(f"{self.outfile_prefix}answers.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
        count = len(results)
        return {
            "accuracy": sum(row["accuracy"] for row in results) / count,
            "exact-match": sum(row["exact"] for row in results) / count,
        }
