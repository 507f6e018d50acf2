"""The whole way on the built-in scenes: data, pre-training, zero-shot, three transfers, one page.

    python tools/quickstart.py --work-dir work_dirs/quickstart

Every step is the command a user would type; it is printed before it runs, and a step that is done
is not repeated. How far it is: WORK_DIR/logs/progress.log, a line a minute.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from sparc_pretrain import shipped
from sparc_pretrain.command import cli, flags

SCENES = "data/quickstart"
# Tasks and their configs. The segmentor's backbone is frozen: so a start's lead shows in a few
# minutes, over seeds too (configs/study/transfer_frozen.py); trained along, it takes longer.
TASKS = {"det": "det", "seg": "seg_frozen", "caption": "caption_cached"}
PROGRESS = re.compile(r"(train|val)\) *(\[[^\]]*\]).*?(eta: [\d:]+)")
SEVERAL = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SEVERAL += ["--launcher", "pytorch"]
Command = list[str]


def main(argv: list[str] | None = None) -> int:
    """Run all steps; the first that fails ends with its exit code."""
    parser = flags.parser(__doc__)
    flags.work_dir(parser, "everything goes there", default="work_dirs/quickstart")
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights and orders, not of the data"
    )
    args = parser.parse_args(argv)
    work = cli.writable(args.work_dir)
    seed = ["--cfg-options", f"randomness.seed={args.seed}"]
    started = time.perf_counter()
    run = str(work / "sparc")
    step("data", {work / "data": data()}, work)
    words = [config("sparc_cc"), "--work-dir", run, *amp(), "--resume", "auto", *seed]
    several = processes()
    step("pre-training", {work / "sparc": pretraining(several, *words)}, work, several)
    val = ["--images", f"{SCENES}/images/val"]
    images = [*val, "--captions", f"{SCENES}/annotations/captions_val.json"]
    phrases = [*val, "--phrases", f"{SCENES}/annotations/phrases_val.json"]
    out = ["--out", str(work / "zeroshot" / "metrics.json")]
    zeroshot = {
        work / "zeroshot": tool("zeroshot", run, "retrieval", *images, *out),
        work / "grounding": tool("zeroshot", run, "grounding", *phrases),
    }
    step("zero-shot", zeroshot, work)
    for task, name in TASKS.items():
        starts = {work / f"{task}_sparc": seed, work / f"{task}_random": ["--from-scratch", *seed]}
        pair = {place: transfer(name, run, place, *more) for place, more in starts.items()}
        step(f"{task}: SPARC and random initialisation", pair, work)
    report = work / "report.html"
    page = tool("report", str(work), "--out", str(report), *images, *phrases[2:])
    step("report", {work / "report": page}, work)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Open {report}")
    return 0


def data() -> Command:
    """The built-in scenes as shards, COCO, LVIS, ADE20K and captions."""
    numbers = ["--train", "4000", "--val", "400", "--size", "128"]
    return tool("data", "scenes", "--out", SCENES, "--level", "easy", *numbers)


def processes() -> int:
    """Of the pre-training: on two cores a step of two processes takes .73 to .80 of the time
    of one process with two threads (AMD EPYC, bfloat16, 2026-12-01), and is the same step.
    """
    import torch

    alone = torch.cuda.is_available() or os.name != "posix" or (os.cpu_count() or 1) < 2
    return 1 if alone else 2


def pretraining(processes: int, *words: str) -> Command:
    """The pre-training, by torchrun where there are two processes."""
    single = tool("pretrain", *words)
    if processes == 1:
        return single
    return [single[0], *SEVERAL[:4], single[1], *SEVERAL[4:], *words]


def transfer(name: str, run: str, work_dir: Path, *more: str) -> Command:
    """Fine-tune and evaluate one task, by the name of its config."""
    places = ["--backbone", run, "--work-dir", str(work_dir)]
    return [*tool("train", config(name), *places, *amp(), "--resume", "auto"), *more]


def amp() -> list[str]:
    """``--amp``, where bfloat16 makes training faster."""
    from sparc_pretrain.engine import precision

    return ["--amp"] if precision.amp_pays() else []


def config(name: str) -> str:
    """The path of a config of the quickstart, from here where it is below."""
    return nearby(shipped.located(f"{shipped.PREFIX}quickstart/{name}.py"))


def tool(name: str, *arguments: str) -> Command:
    """The command of one of our tools."""
    return [sys.executable, nearby(Path(__file__).with_name(f"{name}.py")), *arguments]


def nearby(path: str | Path) -> str:
    """`path`, relative where it is below this folder."""
    path = Path(path).resolve()
    here = Path.cwd().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def step(title: str, commands: dict[Path, Command], work: Path, processes: int = 1) -> None:
    """Run commands of so many processes each side by side (one after the other on a GPU), each
    unless its mark says it is done.

    The output of each goes to ``WORK_DIR/logs/NAME.log``; the mark, ``WORK_DIR/.done/NAME``, holds
    the command. Raises ValueError where it holds another.
    """
    marks = {work / ".done" / path.name: command for path, command in commands.items()}
    todo = {mark: command for mark, command in marks.items() if not is_done(mark, command)}
    if not todo:
        print(f"\n== {title}: done before", flush=True)
        return
    print(f"\n== {title}", flush=True)
    import torch

    started = time.perf_counter()
    together = 1 if torch.cuda.is_available() else len(todo)
    waiting, running = list(todo.items()), {}
    while waiting or running:
        while waiting and len(running) < together:
            mark, command = waiting.pop(0)
            print(f"$ {shlex.join(['python', *command[1:]])}", flush=True)
            running[mark] = start(command, log_of(work, mark), together * processes)
        wait(running, work)
    clear = "\r" if sys.stdout.isatty() else ""
    print(f"{clear}   {time.perf_counter() - started:.0f} s".ljust(60), flush=True)


def what(command: Command) -> str:
    """What a command does, however many processes do it."""
    return shlex.join([word for word in command[1:] if word not in SEVERAL])


def is_done(mark: Path, command: Command) -> bool:
    """Whether this command was done. Raises ValueError where another one was in its place."""
    if not mark.exists():
        return False
    done = mark.read_text(encoding="utf-8")
    if done != what(command):
        raise ValueError(
            f"{mark.name} was done by another command ({done or 'an older version'}): take "
            f"another --work-dir, or remove {mark} and {mark.parent.parent / mark.name}"
        )
    return True


def wait(running: dict[Path, subprocess.Popen], work: Path) -> None:
    """Until one command ends: mark it, or end everything when it failed. Raises ValueError then."""
    logs = [log_of(work, mark) for mark in running]
    while True:
        show(logs)
        note(logs, work / "logs" / "progress.log")
        for mark, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[mark]
            if process.returncode:
                for other in running.values():
                    other.terminate()
                log = log_of(work, mark)
                print("\n".join(last_words(log)), file=sys.stderr)
                raise ValueError(f"{mark.name} ended with code {process.returncode}; see {log}")
            mark.parent.mkdir(exist_ok=True)
            mark.write_text(what(process.args), encoding="utf-8")
            return
        time.sleep(0.2)


def last_words(log: Path) -> list[str]:
    """What a failed command has to say: its own error lines, which torchrun's report follows, or
    the end of its output.
    """
    lines = log.read_text(errors="replace").strip().splitlines()
    return list(dict.fromkeys(line for line in lines if line.startswith("error: "))) or lines[-15:]


def progress(log: Path) -> str:
    """The newest that a command says of how far it is, '...' before it says anything."""
    text = log.read_bytes()[-4000:].decode(errors="replace")
    said = PROGRESS.findall(text)
    return f"{log.stem}: {' '.join(said[-1]) if said else '...'}"


def show(logs: list[Path]) -> None:
    """On a terminal, the progress of each running command on one line."""
    if not sys.stdout.isatty():
        return
    width = shutil.get_terminal_size().columns - 1
    print("\r" + "   ".join(map(progress, logs))[:width].ljust(width), end="", flush=True)


def note(logs: list[Path], file: Path, every: float = 60) -> None:
    """The same with its time into `file`, unless its last line is younger than `every` seconds."""
    if file.exists() and time.time() - file.stat().st_mtime < every:
        return
    with open(file, "a", encoding="utf-8") as out:
        out.write(f"{time.strftime('%H:%M')} {'   '.join(map(progress, logs))}\n")


def start(command: Command, log: Path, shares: int) -> subprocess.Popen:
    """Start a command whose processes have one of so many shares of the cores each."""
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // shares))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with open(log, "w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def log_of(work: Path, mark: Path) -> Path:
    """Where a step's output goes."""
    return work / "logs" / f"{mark.name}.log"


if __name__ == "__main__":
    cli.guard(main)
