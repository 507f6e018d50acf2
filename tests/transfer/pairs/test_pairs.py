"""Fine-tuning on images and texts together: targets, data, metrics, and every fusing run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from PIL import Image

from sparc_pretrain.registry import DATASETS, METRICS, MODELS
from sparc_pretrain.zeroshot import encode
from tests.commands import ROOT, call, refusal
from tests.models import encoder, saved
from transfer.pairs.classifiers import answers_of
from transfer.pairs.statements import read_statements

FUSING = {"Xvlm": 1, "Uniter": 0, "Oscar": 0, "Kaleido": 0}  # -> layers of the text tower
TEXTS = ["what colour is the star?", "how many objects are there?", "both images show a red star"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    return {kind: saved(kind, place / kind, TEXTS, layers) for kind, layers in FUSING.items()}


def asked(prompt: str, **meta) -> BaseDataElement:
    return BaseDataElement(metainfo=dict(prompt=prompt, image="0.png", **meta))


def pictures(count: int, *shape: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 255, (count, *shape, 3, 32, 32), generator=g).to(torch.uint8))


@pytest.mark.parametrize("kind", FUSING)
def test_a_run_that_fuses_answers_questions_and_all_it_reads_with_learns(kind, runs):
    model = MODELS.build(
        dict(type="sparc.VqaClassifier", run=str(runs[kind]), answers=["red", "two", "yes"])
    )
    samples = [
        asked("what colour is the star?", references=["red"] * 3),
        asked("how many objects are there?", references=["2", "two", "no", "many"]),
    ]
    shown = pictures(2)
    losses = model(shown, samples, "loss")
    losses["vqa_loss"].backward()
    for part in ("encoder.vision", "encoder.text", "objective.fusion", "head"):
        grads = [p.grad for p in model.get_submodule(part).parameters()]
        assert any(g is not None and g.abs().sum() > 0 for g in grads), part
    model.eval()
    with torch.no_grad():
        together = model.logits(shown, [s.prompt for s in samples])
        apart = [model.logits([x], [s.prompt]) for x, s in zip(shown, samples, strict=True)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)
    assert not torch.allclose(together, model.logits(shown[::-1], [s.prompt for s in samples]))
    said = model(shown, samples, "predict")
    assert [one.prediction for one in said] == [
        model.answers[row] for row in together.argmax(dim=1).tolist()
    ]


def test_targets_are_the_share_of_three_people_or_of_all_where_there_are_fewer(runs):
    model = MODELS.build(
        dict(type="sparc.VqaClassifier", run=str(runs["Xvlm"]), answers=["red", "2", "yes"])
    )
    said = [["red"] * 10, ["a red", "two", "two", "no", "no"], ["yes"], ["yes", "no"], ["no"]]
    found = model.targets([asked("?", references=people) for people in said])
    third = 1 / 3
    wanted = [[1, 0, 0], [third, 2 * third, 0], [0, 0, 1], [0, 0, 0.5], [0, 0, 0]]
    assert found.flatten().tolist() == pytest.approx([x for row in wanted for x in row], abs=1e-6)
    logits = torch.tensor([[2.0, -1.0, 0.5]]).repeat(5, 1)
    loss = 0.0
    for row in wanted:
        for x, t in zip([2.0, -1.0, 0.5], row, strict=True):
            p = 1 / (1 + np.exp(-x))
            loss -= (t * np.log(p) + (1 - t) * np.log(1 - p)) / 5
    losses = model.losses(logits, [asked("?", references=people) for people in said])
    assert losses["vqa_loss"].item() == pytest.approx(loss, abs=1e-5)
    assert losses["vqa_accuracy"].item() == pytest.approx((1 + third) / 5)


def test_a_statement_is_judged_by_both_images(runs):
    model = MODELS.build(dict(type="sparc.NlvrClassifier", run=str(runs["Xvlm"]))).eval()
    shown = pictures(2, 2)
    samples = [asked(TEXTS[2], label=True), asked(TEXTS[0], label=False)]
    texts = [s.prompt for s in samples]
    with torch.no_grad():
        found = model.logits(shown, texts)
        image = model.objective.read_images(model.encoder, torch.cat(shown))
        rows = [texts[0], texts[0], texts[1], texts[1]]
        text = model.encoder.text_features(*model.encoder.tokenize(rows))
        begin = model.objective.begin(image, text)
        wanted = [model.head(torch.cat([begin[2 * n], begin[2 * n + 1]])) for n in range(2)]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-5)
    log = found.log_softmax(dim=1)
    losses = model.losses(found, samples)
    assert losses["nlvr_loss"].item() == pytest.approx(
        -(log[0, 1] + log[1, 0]).item() / 2, rel=1e-5
    )
    said = [one.prediction for one in model(shown, samples, "predict")]
    assert said == [str(bool(row)) for row in found.argmax(dim=1).tolist()]


def test_from_scratch_has_the_architecture_and_none_of_the_weights(runs):
    config = dict(type="sparc.NlvrClassifier", run=str(runs["Xvlm"]))
    trained, fresh = (MODELS.build({**config, "scratch": scratch}) for scratch in (False, True))
    kept, _ = encode.load(runs["Xvlm"])
    name = "encoder.vision.net.blocks.0.attn.qkv.weight"
    assert torch.equal(trained.state_dict()[name], kept.state_dict()[name.partition(".")[2]])
    assert trained.state_dict().keys() == fresh.state_dict().keys()
    assert not torch.equal(trained.state_dict()[name], fresh.state_dict()[name])


def test_runs_that_cannot_fuse_are_refused(tmp_path):
    plain = encoder().save_pretrained(tmp_path / "clip", dict(objective=dict(type="Clip")))
    for run, words in (
        (str(plain.path), "PooledCosine|Clip|weights"),
        (None, "give --backbone RUN"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=words):
            MODELS.build(dict(type="sparc.NlvrClassifier", run=run))


def test_answers_are_those_of_enough_questions(tmp_path):
    said = [["a dog", "dog", "cat"], ["dog"], ["two", "2", "cat"], ["cat", "cat"], [""]]
    rows = [
        dict(question_id=n, answers=[dict(answer=a) for a in one]) for n, one in enumerate(said)
    ]
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(dict(annotations=rows)))
    assert answers_of(file, 1) == ["dog", "2", "cat"]
    assert answers_of(file, 2) == ["dog"]
    with pytest.raises(ValueError, match="no answer is that of 3 questions"):
        answers_of(file, 3)
    file.write_text(json.dumps(dict(questions=[])))
    with pytest.raises(ValueError, match="not in the VQA format"):
        answers_of(file, 1)


def test_nlvr_files_name_their_images_or_follow_their_identifiers(tmp_path):
    file = tmp_path / "dev.json"
    rows = [
        dict(identifier="dev-10-2-0", sentence=" It is so. ", label="True", left_url="http://x"),
        dict(identifier="scenes-7-0", sentence="no", label="False", images=["a.jpg", "b.jpg"]),
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_statements(file) == [
        (("dev-10-2-img0.png", "dev-10-2-img1.png"), "It is so.", True),
        (("a.jpg", "b.jpg"), "no", False),
    ]
    for bad in ('{"identifier": "a-0", "label": "maybe", "sentence": "x"}', "[]", "{"):
        file.write_text(json.dumps(rows[0]) + "\n" + bad)
        with pytest.raises(ValueError, match=r"dev\.json, line 2: not a statement"):
            read_statements(file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="holds no statement"):
        read_statements(file)


def test_a_pair_with_a_bad_image_is_replaced_whole_in_training_and_refused_in_a_test(tmp_path):
    for n in range(6):
        Image.fromarray(np.full((8, 8, 3), 10 * n, np.uint8)).save(tmp_path / f"{n}.png")
    (tmp_path / "3.png").write_bytes(b"no image")  # the right one of the second pair
    rows = [
        dict(
            identifier=f"x-{n}-0",
            sentence=str(n),
            label="True",
            images=[f"{2 * n}.png", f"{2 * n + 1}.png"],
        )
        for n in range(3)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = dict(type="sparc.NlvrDataset", ann_file="a.jsonl", data_prefix=dict(img=""), size=8)
    config |= dict(data_root=str(tmp_path), max_bad=1.0)
    data = DATASETS.build(config)
    seen = [data[n] for n in range(3)]
    assert [one["data_samples"].prompt for one in seen] == ["0", "2", "2"]
    assert [one["inputs"][:, 0, 0, 0].tolist() for one in seen] == [[0, 10], [40, 50], [40, 50]]
    with pytest.raises(ValueError, match=r"3\.png"):
        DATASETS.build({**config, "test_mode": True})[1]


def test_consistency_counts_sentences_that_are_right_for_all_images():
    metric = METRICS.build(dict(type="sparc.NlvrMetric"))
    said = [("a", "True", True), ("a", "True", False), ("b", "False", False), ("c", "True", True)]
    metric.process(None, [dict(prompt=p, prediction=x, label=y) for p, x, y in said])
    assert metric.evaluate(4) == {
        "nlvr/accuracy": 0.75,
        "nlvr/consistency": pytest.approx(2 / 3),
    }


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "data"
    numbers = ["--train", "24", "--val", "12", "--size", "64", "--level", "easy"]
    assert call("data", "scenes", "--out", out, *numbers)[0] == 0
    return out


@pytest.mark.parametrize("task", ["vqa", "nlvr"])
def test_the_tools_train_and_test_on_the_scenes_questions(task, runs, scenes, tmp_path):
    config, work = ROOT / f"configs/vlp/scenes_{task}.py", tmp_path / "work"
    changed = [
        f"{loader}_dataloader.dataset.{key}"
        for loader in ("train", "val", "test")
        for key in (f"data_root={scenes}/", "size=32")
    ]
    changed += [
        "train_cfg.max_iters=3",
        "train_cfg.val_interval=3",
        "train_dataloader.batch_size=4",
    ]
    if task == "vqa":
        changed.append(f"model.answers={scenes}/annotations/vqa_train.json")
    given = ["--backbone", runs["Xvlm"], "--work-dir", work, "--cfg-options", *changed]
    assert call("train", config, *given) == (0, "")
    record = json.loads((work / "metrics.json").read_text())
    assert record["task"] == task and 0 <= record["metrics"][f"{task}/accuracy"] <= 1
    assert record["backbone"]["objective"] == "Xvlm"
    line = refusal(call("train", config, *given, "--layer-decay", "0.7"))
    assert "no --adamw and no --layer-decay" in line
    tested = tmp_path / "tested"
    options = [work / f"scenes_{task}.py", work / "iter_3.pth", "--work-dir", tested]
    assert call("test", *options)[0] == 0
    again = json.loads((tested / "metrics.json").read_text())["metrics"]
    assert again == record["metrics"]
