"""The study tool: cells once, records, statistics and the page."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from scipy import stats

from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.study import (
    as_long_as,
    catalogue,
    evaluate,
    page,
    plan,
    sheets,
    statistics,
    store,
)
from sparc_pretrain.study.measure import Measure
from sparc_pretrain.zeroshot import grounding_run, retrieval
from tests import forks
from tests.commands import ROOT, call, command, refusal, tool
from tests.zeroshot.oracle_model import NAMES, oracle, paint

SMOKE = ROOT / "configs" / "study" / "smoke.py"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "scenes"
    numbers = ["--train", "48", "--val", "12", "--size", "64"]
    assert call("data", "scenes", "--out", out, *numbers)[0] == 0
    return out


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells and trainings need not import."""
    monkeypatch.setattr(tool("study"), "subprocess", forks.started_as(forks.Child))


def options(scenes: Path) -> list[str]:
    return [
        "--cfg-options",
        f"data.sources={scenes}/shards/train-*.tar",
        f"study.root={scenes}",
    ]


def test_a_study_trains_each_cell_once_and_publishes_what_is_there(scenes, tmp_path):
    arms = ["--arms", "sparc", "clip", "--seeds", "0"]
    words = [SMOKE, "--work-dir", tmp_path, *arms, *options(scenes)]
    done = command("study", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((tmp_path / "runs").iterdir())  # weights of finished cells go
    names = [p.stem for p in (tmp_path / "cells").glob("*.json")]
    records = {name: store.read_record(tmp_path, name) for name in names}
    assert records.keys() == {"sparc-0", "clip-0"}
    sparc = records["sparc-0"]
    assert sparc["cost"]["seconds per step"] > 0 and sparc["cost"]["peak MB"] > 50
    assert study_has_its_primaries(sparc)
    assert len(sparc["items"]["t2i R@5"]) == 60 and sum(sparc["groups"]["t2i R@5"]) == 60
    assert sparc["metrics"]["t2i R@5"] == pytest.approx(
        np.mean(sparc["items"]["t2i R@5"]), abs=1e-4
    )

    study = json.loads((tmp_path / "study.json").read_text())
    assert (study["cells_done"], study["cells"]) == (2, 9)
    rows = {(row["arm"], row["metric"]): row for row in study["rows"]}
    assert "difference" not in rows["clip", "t2i R@5"]
    row = rows["sparc", "t2i R@5"]
    assert row["difference"] == pytest.approx(row["mean"] - rows["clip", "t2i R@5"]["mean"])
    assert row["low"] <= row["difference"] <= row["high"]
    for name in ("study.html", "study.md"):
        page = (tmp_path / name).read_text()
        assert "SPARC" in page and "2 of 9 trainings are done; 7 are missing" in page
        assert "Patches are read as: SPARC g_v(h_v(patch)); CLIP g_v(h_v(patch))." in page
        assert "· float32 ·" in page
    assert (tmp_path / "study.csv").read_text().startswith("arm,metric,kind")
    steps, minutes = sparc["recipe"]["schedule.steps"], sparc["cost"]["minutes with evaluation"]
    assert minutes >= round(steps * sparc["cost"]["seconds per step"] / 60, 2)

    # cells of another recipe never make one table, and are never taken for done
    other = [*words, "schedule.steps=7"]
    for mode in ([], ["--page-only"]):
        said = refusal(call("study", *other, *mode))
        assert f"schedule.steps={steps}, the study has 7" in said and "--work-dir" in said
    record = json.loads(store.record_of(tmp_path, "clip-0").read_text())
    del record["recipe"]
    record["date"], day = "2026-01-05T10:00+00:00", sparc["date"][:10]
    store.record_of(tmp_path, "clip-0").write_text(json.dumps(record))
    assert call("study", *words, "--page-only") == (0, "")
    page = (tmp_path / "study.md").read_text()
    assert "1 older cells hold no record" in page
    assert f"· 2026-01-05 to {day}" in page  # when it was measured, not when the page was made

    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}
    assert call("study", *words) == (0, "")
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}


def study_has_its_primaries(record: dict) -> bool:
    """Each primary outcome is measured, and what a blind answer gets of it beside."""
    primary = plan.read(SMOKE).primary
    assert len(record["items"]["R@5"]) == 12 and len(record["items"]["image_dependence"]) == 12
    assert len(record["items"]["own_image"]) == 12 and record["blind"]["own_image"] == {
        "a guess": 0.5
    }
    assert record["blind"]["R@5"] == {"any five": round(5 / 12, 4)}
    assert record["blind"]["top1"]["any class"] == round(1 / 36, 4)
    assert 0 < record["blind"]["things_mIoU"]["whole image's thing"] < 0.5
    words, colours, things = (
        len(record["items"][f"{kind}_pointing"]) for kind in ("word", "colour", "category")
    )
    assert words > colours + things > colours > 0
    return set(primary) <= record["items"].keys()


def test_a_cell_that_fails_is_named_and_the_tool_fails(scenes, tmp_path, capsys, forked):
    words = [*options(scenes), "data.image_size=63"]  # no multiple of the patch
    arms = ["--arms", "random", "--seeds", "1"]
    code, said = call("study", SMOKE, "--work-dir", tmp_path / "w", *arms, *words)
    assert code == 2 and "no finished cell" in said
    assert "random-1: failed with code 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.sources={}/shards/none-*.tar", "none-*.tar: no .tar file"),
        (
            "data.sources={}/shards/train-{{000000..000002}}.tar",
            "train-000001.tar is missing (2 in all)",
        ),
        ("study.evaluations.0.captions=annotations/captions_test.json", "captions_test.json"),
        ("study.evaluations.3.phrases=annotations/phrases_test.json", "no phrase file"),
        ("study.evaluations.2.images=ade/images/test", "no folder"),
        ("study.evaluations.5.boxes=annotations/instances_val.json", "regions has no 'boxes'"),
    ],
)
def test_data_that_are_missing_are_told_before_the_first_cell_starts(
    scenes, tmp_path, change, words, monkeypatch
):
    monkeypatch.setattr(tool("study"), "run", lambda *_: pytest.fail("a cell was started"))
    given = [*options(scenes), change.format(scenes)]
    line = refusal(call("study", SMOKE, "--work-dir", tmp_path / "w", *given))
    assert words in line


def test_a_folder_per_class_is_one_of_the_evaluations(tmp_path):
    for k, name in enumerate(NAMES):
        paint(tmp_path / name / "0.png", np.full((8, 8), k))
    spec = dict(task="classification", images=str(tmp_path))
    found = evaluate.measure(oracle(), Clip(), [spec])
    assert found["class_top1"].items == [1.0] * len(NAMES) and len(found) == 2


def test_a_cell_that_waits_for_another_says_for_which(scenes, tmp_path, capsys):
    arms = ["--arms", "clip_longer", "--seeds", "0"]
    assert call("study", SMOKE, "--work-dir", tmp_path, *arms, *options(scenes))[0] == 2
    said = capsys.readouterr().out
    assert "clip_longer-0: not run, it needs the times of sparc-0 and clip-0" in said


def test_unknown_arms_presets_and_keys_are_named(tmp_path):
    assert "'sparc2'" in refusal(call("study", SMOKE, "--work-dir", tmp_path, "--arms", "sparc2"))
    assert "preset 'cpu'" in refusal(
        call("study", SMOKE, "--work-dir", tmp_path, "--preset", "cpu")
    )
    config = tmp_path / "typo.py"
    config.write_text(f"_base_ = {str(SMOKE)!r}\nstudy = dict(evaluation=[])\n")
    assert "did you mean 'evaluations'" in refusal(call("study", config, "--work-dir", tmp_path))
    config.write_text(f"_base_ = {str(SMOKE)!r}\nparam_scheduler = [dict(type='ConstantLR')]\n")
    assert "param_scheduler would not follow" in refusal(
        call("study", config, "--work-dir", tmp_path)
    )
    assert "no `study` section" in refusal(
        call("study", ROOT / "configs/quickstart/sparc.py", "--work-dir", tmp_path)
    )


def test_the_long_study_has_each_objective_at_four_lengths():
    study = plan.read(ROOT / "configs" / "study" / "scenes_long.py")
    steps = {c.arm.name: study.cell_config(c).schedule.steps for c in study.cells()}
    for name in ("clip", "sparc", "sparc_ic", "sparc_cc"):
        told = [steps[f"{name}_{pairs}k"] * 64 // 1000 for pairs in (32, 96, 320, 1024)]
        assert told == [32, 96, 320, 1024]
    assert len(steps) == 17 and study.arms["sparc_ic_32k"].objective["image_contrast"] == 1.0


@pytest.mark.parametrize("name", ["scenes", "scenes_easy", "flickr8k"])
def test_arms_differ_in_the_objective_alone(name):
    study = plan.read(ROOT / "configs" / "study" / f"{name}.py")
    recipes = {}
    for cell in study.cells():
        if cell.arm.group == "main" and cell.seed == 0:
            recipe = study.cell_config(cell).to_dict()
            recipe["model"].pop("objective")
            recipes[cell.arm.name] = recipe
    assert len(recipes) == 10
    assert all(recipe == recipes["clip"] for recipe in recipes.values())


def test_an_arm_with_anothers_time_waits_for_both_and_stretches_its_steps(tmp_path):
    study = plan.read(SMOKE)
    longer = next(c for c in study.cells() if c.arm.name == "clip_longer")
    longer = dataclasses.replace(longer, arm=dataclasses.replace(longer.arm, seeds=(0, 1, 2)))
    ready = as_long_as.ready
    assert not ready(study, longer, tmp_path, set())
    for name, seconds in (("sparc-0", 0.9), ("clip-0", 0.3), ("sparc-1", 0.3), ("clip-1", 0.2)):
        path = store.record_of(tmp_path, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"cost": {"seconds per step": seconds}}))
    assert ready(study, longer, tmp_path, {"clip_longer-1", "filip-0"})
    assert not ready(study, longer, tmp_path, {"clip-2"})  # its time counts too
    assert as_long_as.ratio(study, longer, tmp_path) == pytest.approx((3 + 1.5) / 2)
    for name in ("sparc-2", "clip-2"):
        store.record_of(tmp_path, name).write_text(json.dumps({"cost": {"seconds per step": 1}}))
    again = dataclasses.replace(longer, seed=2)  # the same for all seeds, decided once
    assert as_long_as.ratio(study, again, tmp_path) == pytest.approx((3 + 1.5) / 2)
    shutil.rmtree(tmp_path / "time_ratios")
    assert as_long_as.ratio(study, longer, tmp_path) == pytest.approx(1.5)
    assert study.cell_config(longer, time_ratio=1.5).schedule.steps == 6


def test_a_cell_that_was_cut_off_goes_on_by_the_recipe_of_today_or_refuses_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study = plan.read(SMOKE)
    cell = study.cells()[0]
    (tmp_path / "runs" / cell.name / "train").mkdir(parents=True)
    config = tmp_path / "runs" / cell.name / "config.py"
    config.write_text("schedule = dict(steps=9)")
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: None)
    args = argparse.Namespace(given=[])
    tool("study").start(study, cell, tmp_path, args, 1, None)
    steps = Config.fromfile(config).schedule.steps
    assert steps == study.cell_config(cell).schedule.steps != 9


def test_a_short_cell_logs_a_line_whose_time_is_its_cost():
    for steps, interval in ((500, 50), (3, 3)):
        options = {"schedule.steps": steps, "schedule.warmup": 0}
        study = plan.read(ROOT / "configs" / "study" / "flickr8k.py", options=options)
        cfg = study.cell_config(study.cells()[0])
        assert (cfg.schedule.steps, cfg.default_hooks.logger.interval) == (steps, interval)


def test_sweeps_change_one_key_at_a_third_of_the_budget():
    study = plan.read(ROOT / "configs" / "study" / "scenes.py")
    cell = next(c for c in study.cells() if c.arm.name == "sparc_local_weight_5")
    swept, main = study.cell_config(cell), study.recipe
    assert swept.model.objective.local_weight == 5.0
    assert swept.schedule.steps == round(main.schedule.steps / 3)
    assert cell.seed == 0 and study.cells()[-1].arm.group == "sweep"
    assert study.arms["sparc_local_temperature_True"].label == "SPARC, local_temperature True"
    words = plan.read(ROOT / "configs" / "study" / "scenes_easy.py")
    (arm,) = (arm for arm in words.arms.values() if arm.label.endswith(", token_context none"))
    assert words.cell_config(plan.Cell(arm, 0)).model.objective.token_context == "none"


def test_the_gpu_preset_resolves():
    study = plan.read(ROOT / "configs" / "study" / "flickr8k.py", "gpu")
    assert study.recipe.model.vision.arch == "vit_small_patch16_224"
    assert study.recipe.model.vision.overrides.depth == 12
    assert study.recipe.data.global_batch == 512


def told(arm: dict, base: dict, groups: list[int]) -> statistics.Difference:
    """Two arms alone, whose seeds are all that the variance between seeds is pooled from."""
    values = {"arm": arm, "base": base}
    noise = statistics.SeedNoise.of(
        {name: [v.mean() for v in of.values()] for name, of in values.items()}
    )
    return statistics.difference(arm, base, groups, noise, ("arm", "base"))


def test_differences_of_a_clear_gain_are_told_from_noise():
    rng = np.random.default_rng(0)
    base = {s: (rng.random(500) < 0.3).astype(float) for s in (0, 1, 2)}
    better = {s: np.maximum(v, rng.random(500) < 0.3) for s, v in base.items()}
    found = told(better, base, [5] * 100)
    assert found.low > 0 and found.p < 0.01
    assert found.mean == pytest.approx(np.mean([better[s] - base[s] for s in base]))
    same = told(base, base, [5] * 100)
    assert same.low < same.mean == 0 < same.high and same.p == 1 and same.reach < 0.06


def test_images_with_many_captions_count_as_many_in_the_interval_too():
    """The mean of a resample is over the items that were drawn, however many those are."""
    arm, base = {0: np.ones(100)}, {0: np.zeros(100)}
    noise = statistics.SeedNoise.of({"arm": [1.0], "base": [0.0]})
    found = statistics.difference(arm, base, [1] * 50 + [50], noise, ("arm", "base"))
    assert found.low == found.high == found.mean == 1


def test_the_interval_draws_whole_images():
    """One image with all the gain: over items it would look certain, over images it is not."""
    arm = {0: np.r_[np.ones(50), np.zeros(50)]}
    base = {0: np.zeros(100)}
    by_item = told(arm, base, [1] * 100)
    by_image = told(arm, base, [50, 50])
    assert by_item.low > 0.3
    assert by_image.low < 0 and by_image.high > 0.95


def test_item_intervals_match_the_normal_approximation():
    rng = np.random.default_rng(1)
    delta = rng.normal(0.1, 1, 4000)
    found = told({0: delta}, {0: np.zeros(4000)}, [1] * 4000)
    half = 1.96 * delta.std() / np.sqrt(4000)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)
    assert found.p is None and found.reach is None  # one seed: two trainings, not two objectives


def test_seeds_that_disagree_are_noise_even_when_items_agree():
    arm = {0: np.full(100, 1.0), 1: np.full(100, -0.8)}
    base = {0: np.zeros(100), 1: np.zeros(100)}
    found = told(arm, base, [1] * 100)
    assert found.low < 0 < found.high and found.p > 0.5


def test_without_item_noise_it_is_students_t_with_the_pooled_variance():
    per_seed = {"a": [1.0, 1.2, 1.4], "b": [0.5, 0.7, 0.9], "c": [3.0, 3.2, 3.4]}
    noise = statistics.SeedNoise.of(per_seed)
    assert (noise.pooled, noise.freedom) == (pytest.approx(0.04), 6)
    items = {n: {s: np.full(4, v) for s, v in enumerate(vs)} for n, vs in per_seed.items()}
    found = statistics.difference(items["a"], items["b"], [1] * 4, noise, ("a", "b"))
    error = (2 * 0.04 / 3) ** 0.5
    # 6 degrees: the pooled variance is one estimate, though both arms take it
    assert found.high - found.mean == pytest.approx(2.446912 * error, rel=1e-5)
    assert found.reach == pytest.approx(0.5 + 1.943180 * error, rel=1e-5)


def test_the_interval_of_four_items_in_two_groups_by_hand():
    """Items: residuals of groups 1 and -1, so 2/1 x (1 + 1) / 4^2; seeds: .04 + .04 of one seed."""
    arm, base = {0: np.array([1.0, 1, 0, 0])}, {0: np.zeros(4)}
    alone = statistics.SeedNoise(float("nan"), 0, {})
    found = statistics.difference(arm, base, [2, 2], alone, ("a", "b"))
    assert (found.low, found.high) == pytest.approx((0.5 - 1.959964 * 0.5, 0.5 + 1.959964 * 0.5))
    noise = statistics.SeedNoise(0.04, 4, {})
    found = statistics.difference(arm, base, [2, 2], noise, ("a", "b"))
    freedom = 4 * ((0.25 + 0.08) / 0.08) ** 2  # that of the seeds, for the sum
    assert found.high == pytest.approx(0.5 + stats.t.ppf(0.975, freedom) * 0.33**0.5)


def test_an_arm_whose_seeds_differ_more_keeps_its_own_variance():
    noise = statistics.SeedNoise.of({"a": [0.0, 0.1], "b": [0.0, 0.1], "wild": [0.0, 1.0]})
    assert noise.of_difference(("a", "b")) == (pytest.approx(0.34), 3)
    assert noise.of_difference(("a", "of one seed")) == noise.of_difference(("a", "b"))
    variance, freedom = noise.of_difference(("a", "wild"))
    assert variance == pytest.approx(0.67)
    assert freedom == pytest.approx(0.67**2 / (0.5**2 / 1 + 0.17**2 / 3))


def null_study(rng: np.random.Generator, arms: int, seeds: int, metrics: int) -> list[dict]:
    """Arms without any difference: items, seeds and both together vary, one arm's seeds thrice."""
    names = ["clip", *(f"arm{i}" for i in range(1, arms))]
    records = []
    hard = {f"m{k}": rng.normal(0, 1, 40) for k in range(metrics)}
    own = {(n, m): rng.normal(0, 0.3, 40) for n in names for m in hard}
    for name in names:
        for seed in range(seeds):
            spread = 0.3 if name == "arm1" else 0.1
            items = {
                m: of + own[name, m] + rng.normal(0, spread) + rng.normal(0, 0.3, 40)
                for m, of in hard.items()
            }
            records.append(cell(name, seed, items))
    return records


@pytest.mark.parametrize(("seeds", "trials"), [(2, 40), (3, 25), (5, 15)])
def test_under_no_difference_a_study_decides_something_in_at_most_five_percent(seeds, trials):
    """Simulated, in the whole family of a table; the margin is two errors of the simulation."""
    rng, wrong = np.random.default_rng(seeds), 0
    primary = [f"m{k}" for k in range(6)]
    for _ in range(trials):
        rows = statistics.table(null_study(rng, 8, seeds, 6), "clip", primary)
        wrong += any(row.get("holm", 1.0) < statistics.LEVEL for row in rows)
    assert wrong / trials <= 0.05 + 2 * (0.05 * 0.95 / trials) ** 0.5


def test_a_sweep_of_wild_seeds_changes_no_interval_of_the_arms():
    records = null_study(np.random.default_rng(1), 2, 3, 1)
    wild = [cell("sweep", seed, {"m0": np.full(40, 9.0 * seed)}, "sweep") for seed in range(3)]
    alone = statistics.table(records, "clip", ["m0"])
    beside = statistics.table(records + wild, "clip", ["m0"])
    assert [row for row in beside if row["arm"] != "sweep"] == alone


def test_one_seed_is_never_tested():
    rows = statistics.table(null_study(np.random.default_rng(0), 3, 1, 2), "clip", ["m0", "m1"])
    assert not [row for row in rows if "holm" in row]
    assert all(row["low"] < row["difference"] < row["high"] for row in rows if "low" in row)


def test_a_twin_is_held_against_its_own_method_and_can_be_equivalent_to_it():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 300)
    records = []
    for seed in range(4):
        noise = rng.normal(0, 0.01, (3, 300))
        records.append(cell("clip", seed, {"m": base + noise[0]}))
        records.append(cell("sparc", seed, {"m": base + 0.5 + noise[1]}))
        records.append(cell("sparc_shuffled", seed, {"m": base + 0.5 + noise[2]}, "control"))
    rows = statistics.table(records, "clip", ["m"], {"sparc_shuffled": "sparc"})
    twin = next(row for row in rows if row["arm"] == "sparc_shuffled")
    assert twin["against"] == "sparc" and twin["reach"] < 0.03 and twin["holm"] > 0.05
    found = sheets.entry(twin, bound=0.03)
    assert (found.verdict, found.same) == (0, True)
    other = next(row for row in rows if row["arm"] == "sparc")
    assert sheets.entry(other, bound=0.03).verdict == 1 and not sheets.entry(other).same


def test_groups_are_runs_of_items_of_one_image():
    measure = Measure.of([1, 0, 1, 1], [7, 7, 7, 9])
    assert measure.groups == [3, 1] and measure.items == [1, 0, 1, 1]


def test_a_kept_run_is_measured_again_without_training(scenes, tmp_path, forked):
    words = [SMOKE, "--work-dir", tmp_path, "--arms", "random", "--seeds", "0", *options(scenes)]
    assert call("study", *words, "--keep-runs") == (0, "")
    record = store.record_of(tmp_path, "random-0")
    good = json.loads(record.read_text())
    broken = {**good, "items": {}, "groups": {}, "metrics": {}, "cost": {"seconds per step": 7.0}}
    record.write_text(json.dumps(broken))
    assert call("study", *words) == (0, "")
    assert json.loads(record.read_text()) == broken  # a finished cell is not repeated unasked
    assert call("study", *words, "--remeasure") == (0, "")
    again = json.loads(record.read_text())
    assert again["items"] == good["items"] and again["cost"] == {"seconds per step": 7.0}
    assert (tmp_path / "runs" / "random-0").is_dir()


def test_the_interval_over_both_covers_the_truth_as_often_as_it_says():
    """Simulated: seeds and items both vary, their interaction too; 95 % within three errors."""
    rng, held, trials = np.random.default_rng(0), 0, 200
    for _ in range(trials):
        of_item = rng.normal(0, 1, 60)
        arm, base = (
            {s: truth + rng.normal(0, 0.1) + rng.normal(0, 0.3, 60) for s in range(3)}
            for truth in (0.2 + of_item, np.zeros(60))
        )
        found = told(arm, base, [1] * 60)
        held += found.low <= 0.2 <= found.high
    assert 0.95 - 3 * (0.95 * 0.05 / trials) ** 0.5 < held / trials <= 0.99


def test_holm_equals_its_definition():
    p = [0.01, 0.04, 0.03, 0.005, 0.5]
    # sorted .005 .01 .03 .04 .5 times 5 4 3 2 1, never below the one before
    assert statistics.holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0] and statistics.holm([]) == []


def cell(arm: str, seed: int, items: dict[str, Sequence[float]], group: str = "main") -> dict:
    """A record as cells of before `patches_read_as` have it."""
    return {
        "arm": arm,
        "seed": seed,
        "table": group,
        "items": items,
        "groups": {name: [1] * len(values) for name, values in items.items()},
        "cost": {"seconds per step": 1.0},
    }


def test_numbers_have_no_negative_zero() -> None:
    assert sheets.number(-0.0004) == "0.000" and sheets.number(-0.0004, True) == "+0.000"
    assert sheets.number(-0.0006) == "-0.001" and sheets.number(12.34) == "12.3"


def published(records: list[dict]) -> tuple[plan.Plan, dict]:
    study = plan.read(ROOT / "configs" / "study" / "scenes.py")
    return study, {
        "name": "scenes",
        "cells": len(study.cells()),
        "cells_done": len(records),
        "machine": "m",
        "precision": ["float32"],
        "without_recipe": 0,
        "versions": "v",
        "date": "d",
        "evaluations": study.evaluations,
        "rows": statistics.table(records, study.baseline, study.primary, study.twins),
        "blind": {"R@5": {"any five": 0.0125}},
    }


def test_the_page_decides_primary_outcomes_and_leaves_the_rest_unmarked():
    rng = np.random.default_rng(0)
    records = []
    for seed in (0, 1, 2):
        base = rng.random(300)
        clip = {"R@5": base.tolist(), "K_P": base.tolist()}
        better = {name: (base + 0.3 + rng.normal(0, 0.01, 300)).tolist() for name in clip}
        records += [cell("clip", seed, clip), cell("sparc", seed, better)]
        records.append(cell("random", seed, {"R@5": (base - 0.5).tolist()}, "control"))
        records.append(cell("sparc_shuffled", seed, better, "control"))
    records.append(cell("sparc_lr_0.001", 0, better, "sweep"))
    study, found = published(records)
    main, controls, others, cost, sweep = sheets.sheets(study, found)
    assert main.columns == ["CLIP", "SPARC"] and main.note.endswith(
        "1 comparisons, corrected for their number."
    )
    line = next(line for line in main.lines if line.label == "R@5, both ways")
    assert (line.entries[1].verdict, line.entries[1].best) == (1, True)
    assert line.words.endswith("without looking: any five 0.013")
    assert line.entries[1].lines[1].startswith("seeds ") and len(line.entries[1].lines) == 4
    assert controls.columns == ["CLIP", "not trained", "SPARC", "SPARC, shuffled images"]
    assert "SPARC, shuffled images is held against SPARC" in controls.note
    of_others = [entry for line in others.lines for entry in line.entries if entry]
    assert of_others and not any(entry.verdict or entry.same for entry in of_others)
    assert others.title == "Other metrics, not tested" and others.note.endswith("is made of it.")
    assert cost.columns == ["seconds per step"]
    assert sweep.title == "Sweep of lr" and sweep.lines[0].label == "SPARC, lr 0.001"
    text, drawn = page.markdown(study, found), page.render(study, found)
    assert "▲" in text and "≈" in text and "| R@5, both ways |" in text
    assert 'class="up best"' in drawn and "▼" in drawn and "dashed line is CLIP" in drawn
    assert drawn.count("<circle") >= 3 * 3  # every seed is drawn


def test_cells_of_before_and_after_a_new_metric_stand_in_one_table():
    records = [cell("clip", s, {"K_P": [0.1, 0.2], "new": [0.5, 0.5]}) for s in (0, 1)]
    records += [cell("sparc", 0, {"K_P": [0.3, 0.1]})]
    records += [cell("sparc", 1, {"K_P": [0.3, 0.1], "new": [0.4, 0.7]})]
    study, found = published(records)
    sheet = sheets.quality(study, found["rows"], ["clip", "sparc"], "t", ["K_P", "new"], {}, 0.03)
    assert sheet.lines[-1].label == "new" and "1 of 2 seeds" in sheet.lines[-1].entries[1].lines


def test_a_study_names_at_most_six_outcomes_that_decide(tmp_path):
    config = tmp_path / "many.py"
    config.write_text(f"_base_ = {str(SMOKE)!r}\nstudy = dict(primary=list('abcdefg'))\n")
    assert "at most 6 decide" in refusal(call("study", config, "--work-dir", tmp_path))
    config.write_text(
        f"_base_ = {str(SMOKE)!r}\nstudy = dict(arms=dict(clip=dict(twin_of='clap')))\n"
    )
    assert "twin_of='clap' is no arm" in refusal(call("study", config, "--work-dir", tmp_path))


def test_every_metric_of_the_tasks_is_explained():
    named = {"K_P", "K_Pna", "paper_mIoU", "things_mIoU", "stuff_mIoU", "image_dependence", "R@5"}
    named |= {"top1", "top5", "class_top1", "class_top5", "own_image"}
    readings = (*grounding_run.READINGS, "word", "colour", "category")
    named |= {f"{reading}_pointing" for reading in readings}
    named |= {f"{c}{way} R@{k}" for c in ("", "cosine ") for way in ("i2t", "t2i") for k in (1, 5)}
    found = {name: catalogue.described(name) for name in named}
    assert all(task != catalogue.OTHER and metric.title for task, metric in found.values())
    assert found["word_pointing"][1] in grounding_run.METRICS  # declared where they are computed
    assert found["cosine i2t R@5"][1] in retrieval.METRICS
    assert found["class_top1"][0] != found["top1"][0]
    task, metric = catalogue.described("val cosine i2t R@1")
    assert task.endswith("(val)") and metric.title == "image→text R@1, cosine"
    assert catalogue.described("AP50") == (catalogue.OTHER, Metric("AP50", title="AP50"))
