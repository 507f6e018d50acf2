"""The report: self-contained, complete, honest about what is missing, deaf to markup in data."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from sparc_pretrain import run_folder
from sparc_pretrain.command import cli
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import describe
from sparc_pretrain.metrics_file import ancestry, write_metrics
from sparc_pretrain.objectives.sparc import Sparc
from sparc_pretrain.report.captions import struck
from sparc_pretrain.report.certainty import welch
from sparc_pretrain.report.figures import Album, Curve, chart, halves, ticks
from sparc_pretrain.report.numbers import chances, compare, scale, shown
from sparc_pretrain.report.page import build
from sparc_pretrain.report.records import Evaluation, Found, _log, gather, place
from sparc_pretrain.report.samples import spread
from sparc_pretrain.report.sections import curves, side_by_side
from sparc_pretrain.report.verdict import next_steps, verdict
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.zeroshot.grounding_run import METRICS as GROUNDING
from sparc_pretrain.zeroshot.retrieval import METRICS as RETRIEVAL
from sparc_pretrain.zeroshot.segmentation import METRICS as SEGMENTATION
from tests.browser import asked
from tests.commands import call
from tests.models import VISION, batch, pretrainer
from transfer.captioning.metrics.declared import ANSWERS, CAPTIONS
from transfer.detection.metrics import DECLARED
from transfer.run.foreign_metrics import MMSEG

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert('x')</script> & \"a dog\""


def picture(path: Path, seed: int, width: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def truth_and_prediction(path: Path, truth: int, prediction: int) -> None:
    sides = [np.array(Image.open(picture(path, seed))) for seed in (truth, prediction)]
    Image.fromarray(np.concatenate(sides, axis=1)).save(path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Work dirs of a pre-training and of everything that can follow it."""
    root = tmp_path_factory.mktemp("work_dirs")
    tokenizer = Tokenizer.train(["a red kite over the hill"] * 3, vocab_size=262)
    text = TextTower(vocab_size=tokenizer.vocab_size, width=24, layers=1, heads=2, max_tokens=40)
    model = DualEncoder(VisionTower(**VISION), text, 16, tokenizer=tokenizer)
    model.objective_config = {"type": "Sparc", "global_weight": 0.5}
    weights = dict(model.state_dict())
    weights |= {f"objective.{name}": value for name, value in Sparc().state_dict().items()}
    config = {**model.config(), "samples_seen": 1280}
    run = run_folder.write(root / "sparc/run", config, weights, tokenizer.to_json())
    ours = ancestry(run)
    log(root / "sparc/2026/vis_data", 10, global_loss=1.0, local_loss=2.0)
    for name, start, ap in (("sparc", ours, 0.1234), ("scratch", None, 0.08)):
        folder = root / f"det_{name}"
        write_metrics(
            folder / "metrics.json",
            "detection",
            {"coco/bbox_AP": ap, "coco/bbox_AP50": 0.25, "coco/bbox_APl": -1.0},
            {"iterations": 100 if start else 90},
            start,
            config="configs/demo/det.py",
            checkpoint="iteration 100",
            data="data/demo/val.json",
            declared=DECLARED,
        )
        log(folder / "2026/vis_data", 5)
        for i in range(2):
            truth_and_prediction(folder / f"pictures/{i:02d}.png", truth=i, prediction=i + 7)
    folder = root / "caption"
    write_metrics(
        folder / "metrics.json",
        "captioning",
        {"caption/CIDEr": 0.1812},
        {},
        ours,
        data="data/demo/c",
        declared=CAPTIONS,
    )
    row = {"image": "00.png", "caption": EVIL, "references": [EVIL, "a kite"]}
    (folder / "captions.json").write_text(json.dumps([row]))
    files = [str(picture(root / f"photos/{i:02d}.png", i)) for i in range(3)]
    folder = root / "sparc/zeroshot"
    write_metrics(
        folder / "metrics.json",
        "retrieval",
        {"t2i_R@5": 0.4, "t2i_median_rank": 7.0},
        {"chance_R@5": 0.01},
        ours,
        declared=RETRIEVAL,
    )
    example = {"query": f"which {EVIL}", "answers": [2, 0, 1], "correct": 0}
    told = {"images": files, "examples": [example], "captions": [EVIL] * 3}
    (folder / "retrieval.json").write_text(json.dumps({**told, "image_of_text": [0, 1, 2]}))
    return root


def log(folder: Path, steps: int, **terms: float) -> Path:
    folder.mkdir(parents=True)
    rows = [{"loss": 3 / step, "step": step, **terms} for step in range(1, steps + 1)]
    (folder / "scalars.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "scalars.json"


@pytest.fixture(scope="module")
def page(tree) -> str:
    return build([tree], tree / "out/report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(page):
    assert not re.search(r"<(link|iframe|object|embed)\b|<script[^>]*src", page)
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:|//|file:)", page)
    assert not re.search(r"@import|url\(", page)
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) > 10 and all(s.startswith("data:image/jpeg;base64,") for s in sources)
    kinds = re.findall(
        r"<script([^>]*)>", page
    )  # the viewer with its data, the charts; nothing of a data set
    assert kinds.count("") == 2 and set(kinds) == {"", ' type="application/json"'}


def test_the_page_is_well_formed_and_accessible(page):
    assert page.startswith("<!DOCTYPE html>") and '<html lang="en">' in page
    assert page.count("<h1") == 1
    assert all(re.search(r' alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", page))
    assert all("scope=" in tag for tag in re.findall(r"<th\b[^>]*>", page))


def test_every_metric_is_there_with_its_unit_and_its_origin(page):
    for text in ("12.3 %", "8.0 %", "25.0 %", "n/a", "18.1", "40.0 %", "7.0"):
        assert f">{text}<" in page, text
    for text in ("configs/demo/det.py", "iteration 100", "data/demo/val.json", "1,280 pairs"):
        assert text in page, text


def test_the_backbone_is_named_by_its_run_and_hash(page, tree):
    record = json.loads((tree / "det_sparc/metrics.json").read_text())
    assert record["backbone"]["run"] in page
    assert record["backbone"]["sha256"][:12] in page


def test_markup_in_captions_stays_text(page):
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;a dog&#34;") >= 4


def test_the_difference_is_signed_and_not_oversold(page):
    assert "+4.3 points" in page
    assert "Which start is better is not decided: each was trained once" in page
    table = page[page.index('<section id="beside">') :].partition("</section>")[0]
    assert "n = 1 run each" in table and 'class="up">+' not in table  # no colour for one run
    assert "iterations 100 with SPARC and 90 with random initialisation" in page


def test_alignment_curves_and_pictures_are_shown_where_their_files_are(page):
    for section in ("way", "training", "alignment", "retrieval", "detection", "captions", "beside"):
        assert f'<section id="{section}">' in page, section
    assert "Local loss" in page and "weight 0.5" in page


def test_what_is_missing_is_said_and_not_invented(page, tmp_path):
    assert '<section id="segmentation">' not in page
    assert "Segmentation beside the truth: no pictures" in page
    write_metrics(tmp_path / "metrics.json", "counting", {"error": 3.25}, {}, None)
    alone = build([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "3.25" in alone and "nothing is compared" in alone
    for text in ("no run folder", "no vis_data/scalars.json", "no captions.json"):
        assert text in alone


def test_images_and_captions_can_be_given(tree, tmp_path):
    names = [{"id": i, "file_name": f"{i:02d}.png"} for i in range(3)]
    texts = [{"id": i, "image_id": i, "caption": f"kite number {i}"} for i in range(3)]
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"images": names, "annotations": texts}))
    out = build([tree], tmp_path / "r.html", tree / "photos", captions)
    assert "kite number 2" in out.read_text(encoding="utf-8")
    sentence = dict(text="kite number 2", phrases=[dict(chain=1, types=["kite"], span=[0, 4])])
    image = dict(file_name="02.png", width=32, height=24, boxes={"1": [[4, 4, 9, 9]]})
    phrases = tmp_path / "phrases.json"
    phrases.write_text(json.dumps([image | dict(sentences=[sentence])]))
    told = "White boxes: what the word names."
    assert told not in out.read_text(encoding="utf-8")
    build([tree], out, tree / "photos", captions, phrases=phrases)
    page = out.read_text(encoding="utf-8")
    assert told in page and '"boxes": [[0.125, 0.1667, 0.4062, 0.5417]]' in page
    phrases.write_text("[]")
    with pytest.raises(ValueError, match="no phrase with a box"):
        build([tree], out, tree / "photos", captions, phrases=phrases)
    with pytest.raises(ValueError, match="none of the images"):
        build([tree / "det_sparc"], tmp_path / "r.html", [tmp_path], captions)


def test_no_metrics_is_a_users_mistake_with_exit_code_2(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no metrics\.json under"):
        build([tmp_path], tmp_path / "report.html")
    spec = importlib.util.spec_from_file_location("report_tool", ROOT / "tools/report.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for argv in ([str(tmp_path)], [str(tmp_path / "nowhere")]):
        with pytest.raises(SystemExit) as stop:
            cli.guard(lambda argv=argv: tool.main(argv))
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("error: no ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "{"),
        ("metrics.json", '{"task": "x"}'),
        ("metrics.json", "[" * 100_000),
        ("metrics.json", '{"task": "x", "metrics": {"a": "1"}}'),
        ("metrics.json", '{"task": "x", "metrics": {}, "protocol": "many"}'),
        ("metrics.json", '{"task": "x", "metrics": {}, "config": [[1]]}'),
        ("metrics.json", '{"task": "x", "metrics": {}, "data": 1}'),
        ("metrics.json", '{"task": "x", "metrics": {}, "per_class": {"a": 1}}'),
        ("metrics.json", '{"task": "x", "metrics": {}, "per_class": {"a": {"dog": "1"}}}'),
        ("metrics.json", '{"task": "x", "metrics": {}, "described": {"a": {"name": 1}}}'),
        ("metrics.json", '{"task": "x", "metrics": {}, "described": {"a": {"colour": "red"}}}'),
        ("captions.json", '{"image": 1}'),
        ("retrieval.json", "[]"),
        ("retrieval.json", '{"images": [], "examples": [{"query": ""}]}'),
        ("retrieval.json", '{"images": 3, "examples": []}'),
        ("vis_data/scalars.json", "3\n{}\n"),
        ("vis_data/scalars.json", "[" * 100_000 + "\n{}\n"),
        (
            "retrieval.json",
            '{"images": [], "examples": [{"query": "", "answers": [3], "correct": 0}]}',
        ),
    ],
)
def test_a_broken_file_is_named(name, content, tmp_path):
    write_metrics(tmp_path / "metrics.json", "detection", {"bbox_AP": 0.1}, {}, None)
    (tmp_path / "pictures").mkdir()
    name = f"work/1/{name}" if name.startswith("vis_data") else name
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
        build([tmp_path], tmp_path / "report.html")


def test_a_record_that_is_a_pipe_is_not_waited_for_and_one_without_numbers_is_shown(tmp_path):
    write_metrics(
        tmp_path / "a" / "metrics.json",
        "segmentation",
        {"mIoU": None},
        {},
        None,
        per_class={"IoU": {"sky": math.nan}},
    )
    build([tmp_path], tmp_path / "report.html")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "metrics.json")
    with pytest.raises(ValueError, match=r"metrics\.json is no file"):
        build([tmp_path], tmp_path / "report.html")


def evaluation(metrics: dict, task: str = "x", declared=(), **more) -> Evaluation:
    told = describe(metrics, declared)
    record = {"task": task, "metrics": metrics, "protocol": {}, "described": told, **more}
    return Evaluation(Path("w/metrics.json"), record)


def told(name: str, value: float | None, declared) -> str:
    return shown(name, value, evaluation({name: value}, declared=declared))


def test_a_number_is_shown_in_the_unit_that_its_metric_declares():
    assert told("mIoU", 0.85, MMSEG) == "0.8 %"
    assert told("paper_mIoU", 0.85, SEGMENTATION) == "85.0 %"
    assert told("coco/bbox_AP", -1.0, DECLARED) == "n/a"
    assert told("caption/CIDEr", 1.034, CAPTIONS) == "103.4"
    assert told("caption/METEOR", 0.301, CAPTIONS) == told("caption/SPICE", 0.301, CAPTIONS)
    assert told("caption/METEOR", 0.301, CAPTIONS) == told("caption/BLEU-4", 0.301, CAPTIONS)
    assert told("caption/CIDEr_low", 1.034, CAPTIONS) == "103.4"
    assert told("caption/K-Precision", 0.534, CAPTIONS) == "53.4 %"
    assert told("caption/scene-objects", 0.5, CAPTIONS) == "50.0 %"
    assert told("caption/scene-objects_elsewhere", 0.5, CAPTIONS) == "50.0 %"
    assert told("caption/scene-statements", 3.25, CAPTIONS) == "3.25"
    assert told("loss", None, ()) == "n/a"
    assert told("error", 3.25, ()) == "3.25"  # a record from before, or of nobody's


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("caption/scene-stray", True),
        ("caption/CHAIR-i", True),
        ("caption/CIDEr", False),
        ("caption/scene-objects_elsewhere", None),
        ("caption/scene-statements", None),
        ("caption/CIDEr_low", None),
        ("chance_box_recall", None),
        ("i2t_median_rank", True),
    ],
)
def test_fewer_is_better_only_where_it_is_declared_and_controls_are_not_judged(name, better):
    """`better`: whether 1 beside a baseline of 2 is."""
    metrics = CAPTIONS + RETRIEVAL + GROUNDING
    ours = {"objective": "Sparc", "sha256": "a"}
    runs = [
        evaluation({name: 1.0}, declared=metrics, backbone=ours),
        evaluation({name: 2.0}, declared=metrics, backbone=None),
    ]
    assert compare(runs)[0].difference("SPARC", name).better is better


@pytest.mark.parametrize(
    "objective", ["Clip", "Filip", "Pacl", "Gloria", "Mgca", "Siglip", "Sparc"]
)
def test_the_log_of_every_objective_is_drawn_as_a_pretraining(objective, tree, tmp_path):
    """FILIP, PACL and MGCA log no global loss."""
    built = pretrainer(dict(type=objective))
    losses = built(batch())
    work = tmp_path / "work"
    run = run_folder.write(work / "run", built.run_config(64), built.run_weights(), None)
    terms = {key: 1.0 for key in losses if key.endswith("_loss")}
    log(work / "2026/vis_data", 4, **terms)
    found = Found([], gather([tree]).logs, [])
    found.logs = [_log(work, [work / "2026/vis_data/scalars.json"], run)]
    drawn = [chart["title"] for chart in curves(found) if chart["part"] == "Pre-training"]
    assert drawn[0] == "Total loss" and len(drawn) == 1 + len(terms)


def test_without_sparc_the_starts_are_compared_with_the_untrained_one_or_the_first():
    def run(objective, ap):
        start = {"objective": objective, "sha256": objective} if objective else None
        return evaluation({"coco/bbox_AP": ap}, "detection", DECLARED, backbone=start)

    clip, siglip, random = run("Clip", 0.3), run("Siglip", 0.35), run(None, 0.1)
    [found] = compare([clip, siglip, random])
    assert found.baseline == "random initialisation"
    assert found.difference("SigLIP", "coco/bbox_AP").text == "+25.0 points"
    [found] = compare([clip, siglip])
    assert found.baseline == "CLIP" and list(found.starts) == ["SigLIP", "CLIP"]
    first, how = verdict([found], Found([], [], []))
    assert first == (
        "Which start is better is not decided: each was trained once, and another seed may turn it "
        "round. As measured, on unnamed data, SigLIP against CLIP: box AP 35.0 % against 30.0 % "
        "in detection."
    )
    assert how == ""


def test_a_lower_median_rank_is_better():
    runs = [
        evaluation(
            {"t2i_median_rank": rank},
            declared=RETRIEVAL,
            backbone={"objective": objective, "sha256": objective},
        )
        for objective, rank in (("Clip", 9.0), ("Sparc", 5.0))
    ]
    assert not scale("t2i_median_rank", runs[0]).higher_is_better
    gap = compare(runs)[0].difference("SPARC", "t2i_median_rank")
    assert gap.text == "\u22124.0" and gap.better


def test_only_one_setting_is_compared_and_runs_of_one_backbone_are_averaged():
    sparc = {"objective": "Sparc", "sha256": "a"}
    runs = [
        evaluation({"bbox_AP": 0.2}, "x", DECLARED, backbone=sparc, config="c.py"),
        evaluation({"bbox_AP": 0.3}, "x", DECLARED, backbone=sparc, config="c.py"),
        evaluation({"bbox_AP": 0.1}, "x", DECLARED, backbone=None, config="c.py"),
        evaluation({"bbox_AP": 0.9}, "x", DECLARED, backbone=None, config="other.py"),
    ]
    (one,) = compare(runs)
    assert one.cell("SPARC", "bbox_AP").text == "25.0 % (mean of 2, 20.0 to 30.0)"
    assert one.difference("SPARC", "bbox_AP").text == "+15.0 points"
    assert not one.one_run_each and not one.difference("SPARC", "bbox_AP").sure


def test_a_resumed_log_continues_and_a_fresh_start_replaces(tmp_path):
    write_metrics(tmp_path / "metrics.json", "x", {"a": 1}, {}, None)
    log(tmp_path / "1/vis_data", 6)
    resumed = tmp_path / "2/vis_data/scalars.json"
    resumed.parent.mkdir(parents=True)
    resumed.write_text('{"loss": 9, "step": 5}\n{"loss": 8, "st')  # killed while it wrote
    (training,) = gather([tmp_path]).logs
    assert [step for step, _ in training.series("loss")] == [1, 2, 3, 4, 5]
    assert training.series("loss")[-1] == (5, 9)
    log(tmp_path / "3/vis_data", 2)
    assert len(gather([tmp_path]).logs[0].rows) == 2
    resumed.write_text('{"lo\n{"loss": 8, "step": 5}\n')
    with pytest.raises(ValueError, match="line 1"):
        gather([tmp_path])


def test_validations_are_curves_of_their_own_at_the_steps_of_the_training(tree, tmp_path):
    work = tmp_path / "work"
    file = log(work / "1/vis_data", 4)
    lines = file.read_text().splitlines()
    # as mmengine writes them: a validation of a training by steps is of epoch 0
    lines.insert(2, '{"coco/bbox_AP": 0.1, "loss": 2.5, "i2t_R@1": 0.5, "R@1": 0.25, "step": 0}')
    lines.append('{"coco/bbox_AP": 0.3, "loss": 1.5, "i2t_R@1": 0.5, "R@1": 0.5, "step": 0}')
    file.write_text("\n".join(lines) + "\n")
    read = _log(work, [file], None)
    assert [row["step"] for row in read.rows] == [1, 2, 3, 4]
    assert read.series("R@1", held_out=True) == [(2, 0.25), (4, 0.5)]
    again = log(tmp_path / "2/vis_data", 3)
    assert _log(work, [file, again], None).validations == []  # began anew
    run = gather([tree]).runs[0]
    ahead = curves(Found([], [_log(work, [file], run)], []))
    assert [chart["title"] for chart in ahead] == ["Total loss", "Held-out R@1, percent"]
    assert ahead[0]["curves"][1].points == [(2, 2.5), (4, 1.5)]
    assert ahead[1]["curves"][0].points == [(2, 25), (4, 50)]
    own = next(e for e in gather([tree]).evaluations if e.file.parent.name == "det_sparc")
    fine = _log(own.file.parent, [file], None)
    [_, judged] = curves(Found([own], [fine], []))
    assert "box AP of validations" in judged["title"]
    assert [y for _, y in judged["curves"][0].points] == pytest.approx([10, 30])


def test_a_chart_tells_the_values_where_one_points(tree):
    out = build([tree], tree / "out/chart.html")
    script = """
    const svg = document.querySelector("svg.chart"), box = svg.getBoundingClientRect();
    const told = svg.closest("figure").querySelectorAll(".value");
    const values = () => [...told].map((value) => value.innerText);
    const before = values();
    svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 60 / 430 * box.width,
      clientY: box.top + 9}));
    const low = values(), dots = svg.querySelectorAll("circle").length;
    svg.dispatchEvent(new KeyboardEvent("keydown", {key: "End"})); const last = values();
    svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"})); const back = values();
    svg.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
    document.title = JSON.stringify([before, low, dots, last, back, values()])"""
    before, low, dots, last, back, after = json.loads(asked(out, script))
    assert before == after == last == ["0.3 at step 10"]
    assert low == ["3 at step 1"] and dots == 1 and back == ["0.33333 at step 9"]


def test_links_lead_from_the_page_to_record_config_and_run(tree, tmp_path):
    (tree / "det_sparc/det.py").write_text("")
    out = build([tree], tree / "out/links.html")
    links = re.findall(r'<a href="([^#"][^"]*)"', out.read_text(encoding="utf-8"))
    wanted = {"../det_sparc/metrics.json", "../det_sparc/det.py", "../sparc/run"}
    assert wanted <= set(links) and all((out.parent / link).exists() for link in links)


def test_which_terms_hold_is_no_difference_of_protocols(tmp_path):
    for name, visits in (("a", 1), ("b", 2)):
        protocol = {"holds": {f"{name}_loss": True}, "controls": {name: []}, "visits": visits}
        record = {"task": "terms", "metrics": {"x_accuracy": 0.5}, "protocol": protocol}
        record |= {"data": "data/x/val", "backbone": {"objective": "Sparc", "sha256": name}}
        record["backbone"]["run"] = name
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(record))
    page = build([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    remark = page.partition("not alike:")[2].partition("<")[0]
    assert "visits" in remark and "holds" not in remark and "controls" not in remark


def test_boxes_plans_and_patches_are_shown_whole(tree, tmp_path):
    record = {"metrics": {"box_IoU": 0.5}, "data": "data/x/val"}
    record["backbone"] = {"objective": "Sparc", "sha256": "a"}
    for task in ("grounding", "terms", "swap"):
        (tmp_path / task / "pictures").mkdir(parents=True)
        (tmp_path / task / "metrics.json").write_text(json.dumps(record | {"task": task}))
        truth_and_prediction(tmp_path / task / f"pictures/{task}_00.png", truth=1, prediction=2)
    page = build([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Boxes, plans and patches</h2>" in page and page.count('_00" width=') == 2
    assert "grounding, SPARC: grounding_00" in page and "terms, SPARC: terms_00" in page
    assert "Boxes, plans" not in build([tree], tmp_path / "s.html").read_text(encoding="utf-8")


def test_a_prediction_is_not_put_beside_the_truth_of_another_image(tree, tmp_path):
    for name in ("det_sparc", "det_scratch"):
        (tmp_path / name / "pictures").mkdir(parents=True)
        text = (tree / name / "metrics.json").read_text()
        (tmp_path / name / "metrics.json").write_text(text)
    truth_and_prediction(tmp_path / "det_sparc/pictures/00.png", truth=1, prediction=2)
    truth_and_prediction(tmp_path / "det_scratch/pictures/00.png", truth=3, prediction=4)
    page = build([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "no picture of this image" in page
    assert "predicted, random initialisation" not in page


def captioned(root: Path, name: str, backbone: dict | None, rows: list[dict], **more) -> None:
    metrics = {"caption/CIDEr": 0.123, **more}
    record = {"task": "captioning", "metrics": metrics, "data": "data/x/c"}
    record["described"] = describe(metrics, CAPTIONS)
    (root / name).mkdir(parents=True)
    (root / name / "metrics.json").write_text(json.dumps({**record, "backbone": backbone}))
    (root / name / "captions.json").write_text(json.dumps(rows))


def test_captions_of_several_runs_stand_side_by_side_with_their_scores(tmp_path):
    file = str(picture(tmp_path / "photos/a.png", 1))
    row = {"image": "a.png", "file": file, "references": ["a red gear"]}
    ends = {"caption/CIDEr_low": 0.1, "caption/CIDEr_high": 0.15, "caption/scene-objects": 0.5}
    ends["caption/K-Precision"] = 0.3
    said = {"caption": "a blue  gear and a star", "false": ["a blue gear", "no such words"]}
    scores = {"scores": {"CIDEr": 0.4321, "K-Precision": 0.25, "BLEU-1": 0.7}}
    sparc = {"objective": "Sparc", "sha256": "a"}
    for seed in (0, 1):
        captioned(tmp_path / f"s{seed}", "cap", sparc, [{**row, **said, **scores}], **ends)
    captioned(tmp_path, "clip", {"objective": "Clip"}, [{**row, "caption": "a clip caption"}])
    captioned(tmp_path, "random", None, [{**row, "caption": " "}])
    page = build([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="captions">') :].partition("</section>")[0]
    assert section.count("<img") == 1 and "a red gear" in section
    for text in ("<s>a blue gear</s> and a star", "<s>no such words</s>", "an empty caption"):
        assert text in section, text
    assert "CIDEr 43.2, K-Precision 25.0 %" in section and "a clip caption" in section
    assert "10.0 to 15.0" in section and "50.0 %" in section and "BLEU-1" not in section
    assert "SPARC (s0/cap)" in section and "SPARC (s1/cap)" in section
    table = page[page.index('<section id="beside">') :].partition("</section>")[0]
    assert "CIDEr" in table and "low" not in table


def test_losses_of_one_type_that_contrast_differently_are_different_starts():
    """Else a report over a study takes three objectives for three runs of one."""
    tokens = {"type": "Sparc", "image_contrast": 1.0}
    objectives = [{"type": "Sparc"}, tokens, {**tokens, "contrast_of": "captions"}]
    runs = [SimpleNamespace(config={"objective": o}, name="r", sha256="0") for o in objectives]
    told = [evaluation({"AP": 0.1}, "detection", backbone=ancestry(run)) for run in runs]
    assert [one.start for one in told] == ["SPARC", "SPARC+IC", "SPARC+CC"]


def test_every_start_has_a_column_before_a_second_run_of_any():
    starts = [{"objective": "Sparc"}] * 3 + [{"objective": "Clip"}] + [None] * 2
    runs = [evaluation({}, backbone=one) for one in starts]
    chosen = side_by_side(runs, 4)
    assert [runs.index(one) for one in chosen if one.start == "SPARC"] == [0, 0]
    assert [one.start for one in chosen] == ["SPARC", "SPARC", "CLIP", "random initialisation"]
    assert len(side_by_side(runs, 10)) == 6


def test_what_is_false_in_a_caption_is_found_whole_words_only():
    pieces, rest = struck("A car, a  CAR and a cart", ["a car", "a bus"])
    assert pieces == [
        ("A car", True), (", ", False), ("a CAR", True), (" and a cart", False)
    ]  # fmt: skip
    assert rest == ["a bus"]
    assert struck(" ", []) == ([], [])


def test_a_full_album_leaves_pictures_out_and_counts_them():
    album = Album(budget=10)
    tag = album.picture(np.zeros((8, 8, 3), dtype=np.uint8), EVIL)
    assert "<img" not in tag and "<script" not in tag
    assert (album.left_out, album.used) == (1, 0)


def test_a_damaged_picture_is_left_out_and_named(tmp_path):
    broken = tmp_path / "photos/a.png"
    broken.parent.mkdir()
    broken.write_bytes(b"\x89PNG\r\n\x1a\n cut")
    row = {"image": "a.png", "file": str(broken), "references": ["a gear"], "caption": "a star"}
    captioned(tmp_path, "one", None, [row])
    page = build([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "a star" in page and f"{broken}: cannot be read." in page


def cut_off(path: Path) -> Path:
    """What a process leaves that was killed while it wrote a picture."""
    path.write_bytes(path.read_bytes()[:-200])
    return path


def test_a_picture_cut_off_in_a_killed_validation_is_listed_and_the_page_is_written(tmp_path):
    record = {"task": "detection", "metrics": {"bbox_AP": 0.5}, "data": "data/x/val"}
    for name, start in (("s", {"objective": "Sparc", "sha256": "a"}), ("r", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(record | {"backbone": start}))
        for i in range(3):
            truth_and_prediction(tmp_path / name / f"pictures/{i}.png", truth=i, prediction=i + 7)
    cut = [cut_off(tmp_path / name) for name in ("s/pictures/0.png", "s/pictures/1.png")]
    cut.append(cut_off(tmp_path / "r/pictures/1.png"))
    page = build([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    for path in cut:
        assert page.count(f"{path}: cannot be read.") == 1
    shown = page[page.index('<section id="detection">') :].partition("</section>")[0]
    assert "Image 1: predicted, SPARC (cannot be read)" in shown
    assert shown.count("<tr><td>") == 2 and shown.count("<img") == 2 + 3  # not that of nobody
    way = page[page.index('<section id="way">') :].partition("</section>")[0]
    assert way.count("<img") == 2  # the first of SPARC's that is whole
    for path in (tmp_path / "s/pictures/2.png", *(tmp_path / "r/pictures").iterdir()):
        path.write_bytes(b"")
    page = build([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    assert '<section id="detection">' not in page and "<img" not in page


def test_a_sample_that_is_cut_off_is_no_sample_of_words_on_patches(tree, tmp_path):
    files = [picture(tmp_path / f"photos/{i:02d}.png", i) for i in range(3)]
    cut_off(files[0])
    captions = tmp_path / "captions.json"
    names = [{"id": i, "file_name": file.name} for i, file in enumerate(files)]
    texts = [{"id": i, "image_id": i, "caption": f"kite number {i}"} for i in range(3)]
    captions.write_text(json.dumps({"images": names, "annotations": texts}))
    out = build([tree], tmp_path / "r.html", files[0].parent, captions)
    page = out.read_text(encoding="utf-8")
    assert f"{files[0]}: cannot be read." in page
    words = page[page.index('<section id="alignment">') :].partition("</section>")[0]
    assert words.count('<div class="aligned">') == 2 and "kite number 0" not in words


def test_names_that_are_not_utf8_are_shown_as_far_as_they_are_and_linked_as_they_are(
    tree, tmp_path, capsys
):
    """Of work dirs, records, images, captions: Python holds such names, no page can."""
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    file = picture(odd / os.fsdecode(b"photo\xe9.png"), 1)
    row = {"image": file.name, "file": str(file), "references": ["a gear"], "caption": "a star"}
    cut = cut_off(picture(odd / os.fsdecode(b"cut\xe9.png"), 2))
    captioned(odd, "one", None, [row, {**row, "image": cut.name, "file": str(cut)}])
    log(odd / "one/1/vis_data", 3)
    names = {"images": [{"id": 0, "file_name": file.name}]}
    texts = [{"id": 0, "image_id": 0, "caption": "a red kite"}]
    (tmp_path / "captions.json").write_text(json.dumps(names | {"annotations": texts}))
    given = ["--images", str(file), "--captions", str(tmp_path / "captions.json")]
    out = odd / "report.html"
    argv = [str(odd), str(tree / "sparc"), "--out", str(out), "--title", "caf\udce9", *given]
    assert call("report", *argv) == (0, "")
    page = out.read_text(encoding="utf-8")
    assert "<h1>caf\N{REPLACEMENT CHARACTER}</h1>" in page
    assert "caf\N{REPLACEMENT CHARACTER}/one/metrics.json" in page
    assert "photo\N{REPLACEMENT CHARACTER}.png" in page[page.index('id="alignment"') :]
    assert "/cut\N{REPLACEMENT CHARACTER}.png: cannot be read." in page
    links = re.findall(r'<a href="([^#"][^"]*)"', page)
    assert all((odd / os.fsdecode(unquote_to_bytes(link))).exists() for link in links)
    assert "caf\N{REPLACEMENT CHARACTER}/report.html" in capsys.readouterr().out
    moved = build([odd], tmp_path / "moved.html").read_text(encoding="utf-8")
    assert "caf%E9/one/metrics.json" in moved


def test_what_is_shown_of_many_reaches_from_the_first_to_near_the_last():
    assert spread(range(23), 12)[-1] >= 21 and len(spread(range(23), 12)) == 12
    assert spread(range(3), 12) == [0, 1, 2] and spread([], 5) == []


def test_answers_to_questions_are_compared_in_percent(tmp_path):
    for name, backbone, value in (("a", {"objective": "Sparc"}, 0.512), ("b", None, 0.4)):
        (tmp_path / name).mkdir()
        record = {"task": "captioning", "metrics": {"vqa/accuracy": value}, "data": "data/x/q"}
        record["described"] = describe(record["metrics"], ANSWERS)
        (tmp_path / name / "metrics.json").write_text(json.dumps({**record, "backbone": backbone}))
    page = build([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "accuracy 51.2 % against 40.0 % in captioning" in page and "+11.2 points" in page
    assert "nothing is compared" not in page


def test_the_left_half_of_a_picture_is_the_truth(tmp_path):
    truth_and_prediction(tmp_path / "a.png", truth=1, prediction=2)
    both = Album().read(tmp_path / "a.png")
    for half, seed in zip(halves(both), (1, 2), strict=True):
        alone = np.array(Image.open(picture(tmp_path / "alone.png", seed)))
        assert np.array_equal(half.permute(1, 2, 0).numpy(), alone)


def test_the_right_answer_of_a_query_is_the_one_that_is_marked(page):
    section = page[page.index('<section id="retrieval">') :]
    marked = section.index("(the right image)")
    # of the answers 2, 0, 1 to a query that 0 answers, the second: the mark is inside its tag
    assert section[:marked].count("<img") == 2 and section.count("(the right image)") == 1


def test_a_curve_that_rises_goes_up_the_page():
    svg = chart("accuracy", [Curve("a", "sparc", [(1, 0.1), (2, 0.5), (3, 0.9)])])
    heights = [float(y) for _, y in re.findall(r"([\d.]+),([\d.]+)", re.search(
        r'<polyline[^>]* points="([^"]+)"', svg)[1])]  # fmt: skip
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 3


def test_a_tile_of_what_should_be_low_says_so(tmp_path):
    for name, metric in (("a", "t2i_median_rank"), ("b", "t2i_R@5")):
        (tmp_path / name).mkdir()
        record = {"task": "retrieval" if name == "b" else "other", "metrics": {metric: 0.5}}
        record["described"] = describe([metric], RETRIEVAL)
        (tmp_path / name / "metrics.json").write_text(json.dumps({**record, "data": "data/x/q"}))
    page = build([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    tiles = page[page.index('<div class="tiles">') : page.index("<nav")].split('<div class="tile">')
    assert ["lower is better" in tile for tile in tiles[1:]] == [
        "median rank" in tile for tile in tiles[1:]
    ]
    assert page.count("lower is better") == 1


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2.31, 4.87), (-3, 0.2), (5, 5), (0, 12345)])
def test_ticks_are_round_few_and_cover_the_range(low, high):
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8
    step = found[1] - found[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_a_value_that_is_not_finite_is_a_gap_in_the_curve():
    points = [(1, 3.0), (2, 2.0), (3, math.nan), (4, 1.0), (5, 0.5)]
    svg = chart("loss <b>", [Curve("a", "sparc", points)])
    assert svg.count("<polyline") == 2 and "nan" not in svg and "<b>" not in svg


def test_a_data_set_is_called_by_its_folder():
    assert place("data/flickr8k/captions_val.json") == "flickr8k"
    assert place("/srv/data/scenes/ade/images/validation, data/x") == "scenes"
    assert place("val.json") == "val"


def runs_of(objective: str | None, values: list[float], **more) -> list[Evaluation]:
    start = {"objective": objective, "sha256": objective} if objective else None
    told = {"backbone": start, "config": "c.py"}
    return [evaluation({"bbox_AP": v, **more}, "detection", DECLARED, **told) for v in values]


def test_a_run_that_is_recorded_twice_counts_once_and_decides_nothing():
    once = runs_of("Sparc", [0.3]) + runs_of(None, [0.2])
    twice = [Evaluation(Path("copy/metrics.json"), {**e.record, "date": "later"}) for e in once]
    for one in twice:  # the same evaluation, whose files went to another folder
        one.record["protocol"] = {"evaluator": {"outfile_prefix": "copy/pictures"}}
    for one in once:
        one.record["protocol"] = {"evaluator": {"outfile_prefix": "w/pictures"}}
    [found] = compare(once + twice)
    gap = found.difference("SPARC", "bbox_AP")
    assert found.one_run_each and not gap.sure and gap.n == "n = 1 run each"
    assert found.cell("SPARC", "bbox_AP").text == "30.0 %"
    assert verdict([found], Found([], [], []))[0].startswith("Which start is better is not decided")
    [seeds] = compare(runs_of("Sparc", [0.3, 0.31]) + runs_of(None, [0.2, 0.2001]))
    assert seeds.difference("SPARC", "bbox_AP").n == "n = 2 and 2 runs"


def test_a_backbone_that_is_evaluated_untrained_is_one_run_however_often_it_is():
    ours, theirs = ({"objective": one, "sha256": one} for one in ("Sparc", "Clip"))
    told = [
        evaluation({"t2i_R@5": value}, "retrieval", RETRIEVAL, backbone=backbone)
        for backbone, value in ((ours, 0.4), (ours, 0.4001), (theirs, 0.3), (theirs, 0.3001))
    ]
    [found] = compare(told)
    gap = found.difference("CLIP", "t2i_R@5")
    assert not gap.sure and gap.n == "n = 1 run each"
    told[0].record["checkpoint"] = "a.pth"
    told[2].record["checkpoint"] = "b.pth"
    [found] = compare(told)
    assert found.difference("CLIP", "t2i_R@5").n == "n = 2 and 2 runs"


def test_runs_of_which_none_differs_from_its_like_have_no_interval():
    assert welch([0.3, 0.3], [0.2, 0.2]) is None
    assert welch([0.3, 0.3], [0.2, 0.21]) is not None


def test_a_difference_is_coloured_only_outside_its_interval():
    """Against scipy's own Welch interval; intervals over items of single runs colour nothing."""
    clear = runs_of("Sparc", [0.30, 0.31, 0.32]) + runs_of(None, [0.10, 0.11, 0.12])
    [one] = compare(clear)
    gap = one.difference("SPARC", "bbox_AP")
    assert gap.sure and gap.colour == "up" and gap.n == "n = 3 and 3 runs"
    assert verdict([one], Found(clear, [], []))[0].startswith("1 of 1 headline difference is out")
    [one] = compare(runs_of("Sparc", [0.1, 0.3, 0.2]) + runs_of(None, [0.1, 0.15, 0.2]))
    assert one.difference("SPARC", "bbox_AP").colour == ""
    first, second = [0.1, 0.3, 0.2], [0.1, 0.15, 0.21, 0.3]
    theirs = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert welch(first, second) == pytest.approx((theirs.low, theirs.high))
    ends = {"bbox_AP_low": 0.28, "bbox_AP_high": 0.33}
    apart = {"bbox_AP_low": 0.1, "bbox_AP_high": 0.27}
    [one] = compare(runs_of("Sparc", [0.3], **ends) + runs_of(None, [0.2], **apart))
    gap = one.difference("SPARC", "bbox_AP")
    assert gap.colour == "" and gap.better and gap.n == "n = 1 run each"
    assert one.cell("SPARC", "bbox_AP").text == "30.0 % (28.0 to 33.0)"
    assert verdict([one], Found([], [], []))[0].startswith("Which start is better is not decided")


def test_a_control_stands_under_its_metric_and_the_headline_comes_first():
    def run(objective, true, other):
        start = {"objective": objective, "sha256": "a"} if objective else None
        told = {"scene-stray": 0.1, "scene-objects": true, "scene-objects_elsewhere": other}
        return evaluation({**told, "CIDEr": 1.0}, "captioning", CAPTIONS, backbone=start)

    [one] = compare([run("Sparc", 0.6, 0.15), run(None, 0.5, 0.17)])
    assert one.names() == ["CIDEr", "scene-stray", "scene-objects"]
    assert one.elsewhere("SPARC", "scene-objects") == "15.0 %"
    assert one.elsewhere("SPARC", "CIDEr") == ""


def test_chance_stands_beside_a_headline_in_the_verdict(tmp_path):
    told = {"chance_centre_pointing": 0.67, "chance_random_patch_pointing": 0.22}
    told |= {"chance_box_area": 0.2, "phrase_local_pointing": 0.837, "phrase_pointing": 0.5}
    one = evaluation(told, "grounding", GROUNDING, data="data/x/p.json")
    assert chances(one) == [("the picture's centre", 0.67), ("a random patch", 0.22)]
    assert "83.7 % (the picture's centre 67.0 %, a random patch 22.0 %)" in verdict(
        [], Found([one], [], [])
    )[1]  # fmt: skip
    assert chances(evaluation({"t2i_R@5": 0.4}, declared=RETRIEVAL)) == []


def test_the_way_shows_what_the_pretrained_start_made_and_says_so(tree, page):
    way = page[page.index('<section id="way">') :].partition("</section>")[0]
    assert "<figcaption>SPARC</figcaption>" in way and "Captioner, SPARC:" in way
    assert "among the words of its caption" in way and "rather than in another" not in way


def test_the_next_step_is_two_trainings_beside_the_first_and_the_page_again(tree, monkeypatch):
    found = gather([tree])
    monkeypatch.chdir(tree.parent)
    step = next_steps(compare(found.evaluations), found)[0].command.splitlines()
    here = tree.relative_to(tree.parent)
    assert [line.split()[1] for line in step] == ["train", "train", "report"]
    assert f"--backbone {here}/sparc --from-scratch" in step[1]
    assert step[2] == f"sparc report {here} --out {here}/report.html"
    for line in step[:2]:
        assert f"--work-dir {here}/detection" in line and "randomness.seed=1" in line


def test_classes_stand_in_a_table_with_the_mean_of_the_runs_of_each_start(tmp_path):
    ours = {"run": "a/run", "sha256": "a", "objective": "Sparc", "samples_seen": 1}
    for n, (start, ap) in enumerate(((ours, 0.2), (ours, 0.4), (None, 0.1))):
        told = {"bbox_AP": {"cat": ap, "dog": 0.9, "gnu": math.nan}}
        write_metrics(
            tmp_path / f"{n}/metrics.json", "detection", {"bbox_AP": ap}, {}, start, "c.py",
            data="data/x/v.json", declared=DECLARED, per_class=told,
        )  # fmt: skip
    page = build([tmp_path], tmp_path / "out.html").read_text(encoding="utf-8")
    table = page[page.index('<section id="classes">') :]
    table = table[: table.index("</section>")]
    rows = re.findall(r'<th scope="row">(\w+)</th>(.*?)</tr>', table)
    numbers = {name: re.findall(r">([\d.]+)<", cells) for name, cells in rows}
    assert list(numbers.items()) == [("dog", ["90.0", "90.0"]), ("cat", ["10.0", "30.0"])]


def test_the_whole_page_fits_a_phone_and_its_viewer_runs(tree):
    out = build([tree], tree / "out/phone.html")
    script = """
    const wide = [...document.querySelectorAll("main *, header *")].filter((e) => !e.closest(
      ".scroll, .gallery, .wide") && e.getBoundingClientRect().right > innerWidth + 1);
    const word = document.querySelector(".viewer .word"), stage = document.querySelector(".stage");
    if (word.getAttribute("aria-pressed") === "true") word.click(); // it may open on this one
    word.click();
    document.title = JSON.stringify([wide.map((e) => e.className || e.tagName).slice(0, 5),
      document.querySelectorAll(".viewer[data-ready]").length, stage.classList.contains("lit")])"""
    wide, ready, lit = json.loads(asked(out, script, "--window-size=500,900"))
    assert wide == [] and ready >= 1 and lit


def test_a_retrieval_that_missed_shows_the_right_image(page):
    assert "(the right image)" in page
