"""What a study's page says in words: what was trained, how its numbers are to be read."""

from __future__ import annotations

from typing import Any

from sparc_pretrain.study.plan import Plan
from sparc_pretrain.study.statistics import LEVEL

UNRECORDED = "not recorded"
# of cells from before the hook `dense_patches`
OLDER = f"{UNRECORDED} (an older cell: by g_v and the trained head, without PACL's embedder)"


def about(plan: Plan, study: dict[str, Any]) -> list[str]:
    """What was compared, on what, and how far it is."""
    main = [arm for arm in plan.arms.values() if arm.group == "main"]
    seeds = sorted({seed for arm in main for seed in arm.seeds})
    schedule, batch = plan.recipe.schedule, plan.recipe.data.global_batch
    missing = study["cells"] - study["cells_done"]
    seeds_done: dict[str, int] = {}
    for row in study["rows"]:
        seeds_done[row["arm"]] = max(row["seeds"], seeds_done.get(row["arm"], 0))
    done = "; ".join(
        f"{arm.label} {seeds_done[arm.name]}" for arm in main if arm.name in seeds_done
    )
    names = "; ".join(arm.label for arm in main)
    return [
        f"{len(main)} objectives, {len(seeds)} seeds planned: {names}. Every one is trained on the "
        "same image-text pairs, with the same towers, order and schedule; the objective alone "
        f"differs. {schedule.steps} steps of {batch} pairs, {schedule.steps * batch:,} a training.",
        f"{study['cells_done']} of {study['cells']} trainings are done"
        + (f"; {missing} are missing, and what needs them is left out." if missing else ".")
        + f" Seeds done: {done}.",
        f"{study['machine']} · {_precision(study)} · {study['versions']} · {study['date']}",
    ]


def how_to_read(plan: Plan) -> list[str]:
    """The marks and intervals of the tables."""
    base = plan.arms[plan.baseline].label
    primary = ", ".join(plan.primary) or "none"
    return [
        "First line: the mean over seeds; bold: the highest of its line, which by itself says "
        "nothing. Second line: each seed.",
        f"Then the paired difference to {base} (a control's to its own method), same seeds and "
        "same test items, with its 95 % interval over seeds and items: whole images are drawn, and "
        "the variance between seeds is pooled over the arms (an arm whose seeds differ more keeps "
        "its own), Student's t.",
        f"Primary outcomes, named beforehand: {primary}. They alone are tested. p is corrected "
        f"(Holm) for all primary outcomes of all arms of its table; ▲ ahead, ▼ behind: p below "
        f"{LEVEL}. Under no difference at all a page has any such mark in at most 5 % of studies "
        "(simulated in the tests).",
        f"≈: equivalent, the 90 % interval lies within ±{plan.equivalence:g} (two one-sided "
        "tests). No mark: not decided, which is not the same as equal. With one seed everywhere "
        "nothing is tested: two trainings differ, not two objectives.",
        "Without looking: what a constant answer, a guess or the commonest class gets.",
    ]


def protocol(plan: Plan, study: dict[str, Any]) -> list[str]:
    """How everything was measured."""
    recipe = plan.recipe
    depth = recipe.model.vision.get("overrides", {}).get("depth")
    towers = f"image tower {recipe.model.vision.arch}"
    towers += f" with {depth} blocks" if depth else ""
    text = recipe.model.text
    found = [
        f"Towers: {towers} at {recipe.data.image_size} px; text tower with {text.layers} layers of "
        f"width {text.width}; all from random initialisation.",
        f"Controls: {'; '.join(_controls(plan))}." if _controls(plan) else "",
        *(_evaluation(spec) for spec in study["evaluations"]),
        "Test items of each metric: " + _sizes(study.get("items", {})) if "items" in study else "",
        "Whole images are read as the objective says: "
        "FILIP, PACL and GLoRIA by their own similarity, the others by cosine of global "
        "embeddings. Lines with 'cosine' give the pooled cosine of all.",
        "Dense tasks compare patches with texts by cosine. Patches are read as: "
        + "; ".join(
            f"{plan.arms[name].label} {' / '.join(how)}"
            for name, how in study.get("patches_read_as", {}).items()
        )
        + ".",
        "No setting is tuned per objective; the sweeps, if any, show what tuning would change.",
        "Files: study.csv has all rows, study.json also the plan, cells/ one JSON per training "
        "with its value for every test item, machine, versions and date.",
        f"Again: python tools/study.py configs/study/{study['name']}.py",
    ]
    return [line for line in found if line]


def _precision(study: dict[str, Any]) -> str:
    """'float32', and of how many cells it is only said that this was their recipe."""
    found = ", ".join(study["precision"])
    older = study["without_recipe"]
    return found + (f"; {older} older cells hold no record of their recipe" if older else "")


def _controls(plan: Plan) -> list[str]:
    words = []
    for arm in plan.arms.values():
        if arm.group != "control":
            continue
        if not arm.trained:
            words.append(f"{arm.label} = the towers as initialised, which is chance")
        elif arm.as_long_as:
            other = plan.arms[arm.as_long_as].label
            words.append(f"{arm.label} = trained as long as {other} took")
        else:
            options = {k: v for k, v in arm.objective.items() if k != "type"}
            given = ", ".join(f"{k}={v}" for k, v in options.items())
            words.append(f"{arm.label} = {arm.objective['type']}({given})")
    return words


def _evaluation(spec: dict[str, Any]) -> str:
    given = ", ".join(f"{k} {v}" for k, v in spec.items() if k not in ("task", "name"))
    return f"{spec.get('name', spec['task']).capitalize()}: {given}."


def _sizes(items: dict[str, list[int]]) -> str:
    """'R@1 400 (of 400 images)'; metrics of equal sizes together."""
    by_size: dict[tuple[int, ...], list[str]] = {}
    for metric, size in items.items():
        by_size.setdefault(tuple(size), []).append(metric)
    return "; ".join(
        f"{', '.join(names)}: {count:,} of {images:,} images"
        for (count, images), names in by_size.items()
    )
