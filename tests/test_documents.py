"""README and docs: every command is run here or listed with the reason why not; links lead
somewhere; README is short.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT, call, tool

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "tutorials").glob("*.md"))
SCENES = "data/few_scenes"
# What stands for the reader's own in a command that is run.
OWN = {
    "IMAGES/": f"{SCENES}/images/val",
    "captions.json": f"{SCENES}/annotations/captions_val.json",
    "DIR": f"{SCENES}/images/val",
}
# In this order, each in the folder where the ones before it have run.
RUN = (
    "sparc doctor",
    "sparc data scenes --out data/few_scenes",
    "sparc align sparc-scenes-tiny",
    "sparc data shards",
    "sparc data index",
    "sparc pretrain sparc_pretrain::quickstart/sparc.py --work-dir work_dirs/mine",
    "sparc verify work_dirs/mine/run",
    "sparc zeroshot work_dirs/mine retrieval",
    "sparc zeroshot sparc-scenes-tiny grounding",
    "sparc convert sparc-scenes-tiny exported --to timm",
    "sparc report work_dirs --out report.html",
    "sparc train mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py --backbone sparc-scenes-tiny",
)
NOT_RUN = {
    r"make |source |#!|#SBATCH": "the environment that runs this, or a scheduler's",
    r"(GPUS|HEAD)=|sbatch ": "several processes: tests/tools/test_launch.py",
    r"sparc pretrain sparc_pretrain::sparc(_cc)?\.py": "the paper's ViT-B/16: hours",
    r"sparc pretrain .*--objective mine": "the reader's own objective",
    r"sparc train sparc_pretrain::my/small/": "downloaded data; tests/transfer/run/own_data",
    r"sparc study ": "hours; tests/study run a small one",
    r"sparc convert (?!sparc-)": "downloads weights; tests/convert do it from random ones",
    r"sparc (zeroshot|train|test|predict|pretrain) .*(RUN|WORK|CHECKPOINT|runs/|work_dirs/sparc)":
        "the reader's own run and downloaded data; tests/tools and tests/transfer run each tool",
    r"sparc (pretrain_lm|caption) ": "a language model's training; tests/transfer/captioning",
    r"sparc align work_dirs/sparc ": "the reader's own photo",
    r"sparc data (coco|flickr8k) ": "downloaded data; tests/data/test_layouts.py",
    r"sparc data scenes --out data/(scenes|quickstart)( --level .*)?$": "4,000 images, not 12",
    r"sparc data boxes ": "tests/data/test_box_import.py and others, each kind",
    r"sparc (quickstart|demo)": "twenty minutes; a server, tests/page asks one",
    r"python tools/measure/": "benchmarks",
    r"pip install .sparc|aws |export (AWS|GOOGLE)_|sparc \w+ .*s3://":
        "a bucket of the reader's own; tests/data/test_remote.py and others have stand-ins",
}  # fmt: skip


def commands(page: Path) -> Iterator[str]:
    """The lines of a page's bash blocks, and commands in running text, without their comments."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = line if line.startswith("#") else re.split(r"\s+#", line)[0]
            if line.strip() and not line.startswith("# "):
                yield " ".join(line.split())
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for line in re.findall(r"`(sparc [a-z_]+ [^`]*)`", plain):
        mention = re.search(r"NAME|\.\.\.|--help", line) or not re.search(r"--|/", line)
        if not mention:
            yield " ".join(line.split())


ALL = sorted({line for page in PAGES for line in commands(page)})


def to_run() -> list[str]:
    """The commands to run, in the order of RUN."""
    return [line for start in RUN for line in ALL if line.startswith(start)]


def test_every_command_is_run_or_has_a_reason() -> None:
    assert len(ALL) > 40
    run, reasons = set(to_run()), {pattern: 0 for pattern in NOT_RUN}
    for line in ALL:
        matching = [pattern for pattern in NOT_RUN if re.match(pattern, line)]
        for pattern in matching:
            reasons[pattern] += 1
        assert (line in run) or matching, f"neither run nor listed: {line}"
    assert all(any(line.startswith(start) for line in ALL) for start in RUN)
    unused = [pattern for pattern, n in reasons.items() if not n]
    assert not unused


class Parsed(Exception):
    """A command line was accepted."""


@pytest.mark.parametrize("line", [x for x in ALL if "sparc" in x.split() or "sparc_tools" in x])
def test_every_command_is_accepted_by_its_parser(line: str, monkeypatch) -> None:
    words = shlex.split(line)
    words = words[words.index("sparc" if "sparc" in words else "sparc_tools") + 1 :]
    if words[0] == "quickstart":
        words = ["quickstart"]
    original = argparse.ArgumentParser.parse_args

    def parse(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(Parsed):
        tool(words[0]).main(words[1:])


def test_the_commands_that_need_no_download_do_what_they_say(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for line in to_run():
        words = [OWN.get(word, word) for word in shlex.split(line)][1:]
        name, argv = words[0], words[1:]
        if name == "doctor":
            continue  # tests/tools/test_doctor.py asks it once, for half a minute
        code, said = call(name, *argv)
        assert code == 0, f"{line}: {said}"
    for made in ("words.png", "words.html", "report.html", "work_dirs/mine/run/manifest.json"):
        assert (tmp_path / made).stat().st_size > 100
    assert "phrase_local_pointing" in capsys.readouterr().out


def test_the_readme_is_short_and_starts_with_a_picture_an_install_and_a_wonder() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    order = ["docs/images/words.png", "source .venv/bin/activate", "\nsparc align ", "Three roads"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_of_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)", text):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_everything_that_a_config_can_name_is_in_the_reference() -> None:
    files = [p for top in ("sparc_pretrain", "transfer") for p in (ROOT / top).rglob("*.py")]
    named = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files
        if re.search(r"^@[A-Z_]+\.register_module", path.read_text(), re.MULTILINE)
    }
    named |= {"sparc_pretrain.pretraining.sections", "sparc_pretrain.data.fields"}
    pages = (ROOT / "docs" / "reference").glob("*.md")
    told = {m for p in pages for m in re.findall(r"^::: (\S+)$", p.read_text(), re.MULTILINE)}
    assert len(named) > 40
    assert not named - told, "docs/reference lacks them"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: make docs, or pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tutorials" / "first" / "index.html").is_file()
