"""A study's first words, made from its numbers: who is ahead in what was named beforehand."""

from __future__ import annotations

from typing import Any

from sparc_pretrain.study.catalogue import described
from sparc_pretrain.study.plan import Plan
from sparc_pretrain.study.sheets import entry, number


def verdict(plan: Plan, study: dict[str, Any]) -> list[str]:
    """A line per main arm: primary outcomes in which it is ahead of the baseline or behind it after
    correction, by more than the study's bound of equivalence; and how many are not so.
    """
    rows = {(r["arm"], r["metric"]): r for r in study["rows"] if "holm" in r or "p" not in r}
    base, lines = plan.arms[plan.baseline], []
    for arm in (a for a in plan.arms.values() if a.group == "main" and a.name != plan.baseline):
        told: dict[int, list[str]] = {1: [], -1: []}
        rest = 0
        for metric in plan.primary:
            row, against = rows.get((arm.name, metric)), rows.get((plan.baseline, metric))
            if row is None or against is None or "holm" not in row:
                continue
            found = entry(row, bound=plan.equivalence)
            if found is None or found.verdict == 0 or found.same:
                rest += 1
                continue
            title = described(metric)[1].title
            told[found.verdict].append(
                f"{title} ({number(row['mean'])}, {base.label} {number(against['mean'])})"
            )
        parts = [
            f"{word} {base.label} in {', '.join(told[sign])}"
            for sign, word in ((1, "ahead of"), (-1, "behind"))
            if told[sign]
        ]
        if rest:
            count = f"{rest} other" if parts else f"all {rest}"
            outcomes = f"primary outcome{'s' * (rest > 1)}"
            parts.append(f"{count} {outcomes} not decided or within \u00b1{plan.equivalence:g}")
        if parts:
            lines.append(f"{arm.label}: {'; '.join(parts)}.")
    return lines or ["Nothing is decided: no outcome was named beforehand, or there is one seed."]
