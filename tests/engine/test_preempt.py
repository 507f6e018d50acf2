"""A request to stop is honoured at a step boundary, by all ranks at the same one."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain.engine import checkpoint
from sparc_pretrain.engine.preempt import PREEMPTED, PreemptHook

TERM, USR1, INT = int(signal.SIGTERM), int(signal.SIGUSR1), int(signal.SIGINT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """14 steps without interruption."""
    work_dir = tmp_path_factory.mktemp("whole")
    toy_run.train(work_dir, validate=True)
    return work_dir


@pytest.mark.parametrize(("number", "workers"), [(TERM, 0), (USR1, 1), (INT, 0)])
def test_a_signal_saves_this_step_and_the_resumed_run_equals_the_whole_one(
    tmp_path, whole, number, workers
):
    run = dict(work_dir=tmp_path, validate=True, workers=workers)
    assert toy_run.spawn(signals={"rank 0 step 7": [number]}, **run) == [PREEMPTED]
    assert checkpoint.find_valid(tmp_path).name == "iter_7.pth"
    assert max(toy_run.seen(tmp_path)) == 7
    toy_run.train(resume="auto", **run)
    assert (tmp_path / "hash-0.txt").read_text() == (whole / "hash-0.txt").read_text()
    assert toy_run.seen(tmp_path) == toy_run.seen(whole)


def test_a_signal_to_the_whole_group_does_not_take_the_loader_workers_away(tmp_path):
    signals = {"workers step 7": [TERM], "rank 0 step 7": [TERM]}
    assert toy_run.spawn(work_dir=tmp_path, workers=2, signals=signals) == [PREEMPTED]
    assert checkpoint.find_valid(tmp_path).name == "iter_7.pth"


def test_a_step_that_was_just_saved_is_not_saved_twice(tmp_path, whole):
    assert toy_run.spawn(work_dir=tmp_path, signals={"rank 0 step 10": [TERM]}) == [PREEMPTED]
    assert checkpoint.find_valid(tmp_path).name == "iter_10.pth"


def test_a_second_interrupt_exits_at_once_and_leaves_the_last_checkpoint(tmp_path):
    codes = toy_run.spawn(work_dir=tmp_path, signals={"rank 0 step 7": [INT, INT]})
    assert codes == [1]  # KeyboardInterrupt
    assert max(toy_run.seen(tmp_path)) == 6
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"


def test_two_terms_in_a_row_are_one_request(tmp_path):
    codes = toy_run.spawn(work_dir=tmp_path, signals={"rank 0 step 7": [TERM, TERM]})
    assert codes == [PREEMPTED]
    assert checkpoint.find_valid(tmp_path).name == "iter_7.pth"


def test_a_signal_in_validation_leaves_at_once_when_the_step_has_been_saved(tmp_path, whole):
    run = dict(work_dir=tmp_path, validate=True)
    assert toy_run.spawn(signals={"rank 0 val 5": [TERM]}, **run) == [PREEMPTED]
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"
    toy_run.train(resume="auto", **run)
    assert (tmp_path / "hash-0.txt").read_text() == (whole / "hash-0.txt").read_text()


def test_a_signal_in_validation_of_an_unsaved_step_saves_it_after_validation(tmp_path, whole):
    run = dict(work_dir=tmp_path, validate=True, checkpoint=dict(interval=100))
    assert toy_run.spawn(signals={"rank 0 val 5": [TERM]}, **run) == [PREEMPTED]
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"
    toy_run.train(resume="auto", **run)
    assert (tmp_path / "hash-0.txt").read_text() == (whole / "hash-0.txt").read_text()


def test_a_signal_in_the_middle_of_a_save_lets_it_finish_and_leaves(tmp_path, whole):
    run = dict(work_dir=tmp_path, validate=True)
    assert toy_run.spawn(signals={"rank 0 save 5": [TERM]}, **run) == [PREEMPTED]
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"
    assert max(toy_run.seen(tmp_path)) == 5
    toy_run.train(resume="auto", **run)
    assert (tmp_path / "hash-0.txt").read_text() == (whole / "hash-0.txt").read_text()


def test_a_signal_before_the_first_step_ends_the_process_at_once(tmp_path):
    assert toy_run.spawn(work_dir=tmp_path, signals={"rank 0 start": [TERM]}) == [-TERM]
    assert not list(tmp_path.glob("*.pth")) and not list(tmp_path.glob("seen-*"))
    assert toy_run.train(tmp_path, steps=5).iter == 5  # the dead run's lock is taken over


@pytest.mark.parametrize(("grace", "resumed"), [(60.0, "epoch_2.pth"), (0.0, "epoch_1.pth")])
def test_an_epoch_based_loop_finishes_a_short_epoch_and_leaves_a_long_one(tmp_path, grace, resumed):
    run = dict(work_dir=tmp_path, epochs=3, preempt_hook=dict(grace=grace))
    assert toy_run.spawn(signals={"rank 0 step 20": [TERM]}, **run) == [PREEMPTED]
    assert checkpoint.find_valid(tmp_path).name == resumed
    toy_run.train(resume="auto", **run)
    assert len(toy_run.seen(tmp_path)) == 48


def test_a_signal_on_one_rank_stops_both_at_the_same_step(tmp_path):
    run = dict(work_dir=tmp_path, steps=8)
    assert toy_run.spawn(2, signals={"rank 1 step 3": [TERM]}, **run) == [PREEMPTED] * 2
    assert max(toy_run.seen(tmp_path, 0)) == max(toy_run.seen(tmp_path, 1)) == 4  # told a step late
    assert checkpoint.find_valid(tmp_path).name == "iter_4.pth"
    assert toy_run.spawn(2, resume="auto", **run) == [0, 0]
    assert len(toy_run.seen(tmp_path, 0)) == 8


@pytest.mark.parametrize("moment", ["step 3", "val 5"])
def test_no_rank_leaves_before_the_first_has_sent_what_it_has_saved(tmp_path, moment):
    """Which may take longer than a collective does."""
    signals = {f"rank {rank} {moment}": [TERM] for rank in (0, 1)}
    run = dict(work_dir=tmp_path, steps=8, validate=True, checkpoint=dict(background=True))
    codes = toy_run.spawn(2, timeout=5, sends=8, signals=signals, **run)
    assert codes == [PREEMPTED] * 2
    sent, first, second = (
        float((tmp_path / f"{name}.txt").read_text()) for name in ("sent", "ended-0", "ended-1")
    )
    assert sent < second and abs(first - second) < 2  # else srun would end one of them


def test_a_signal_in_validation_of_another_rank_than_the_first_stops_both_at_its_end(
    tmp_path,
):
    """The first, which has noticed nothing, would wait for it in the collective of the metrics."""
    run = dict(work_dir=tmp_path, steps=8, validate=True)
    assert toy_run.spawn(2, signals={"rank 1 val 5": [TERM]}, **run) == [PREEMPTED] * 2
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"
    assert max(toy_run.seen(tmp_path, 0)) == max(toy_run.seen(tmp_path, 1)) == 5


def test_the_handlers_are_given_back_after_training(tmp_path):
    before = [signal.getsignal(n) for n in (TERM, USR1, INT)]
    toy_run.train(tmp_path, steps=5)
    assert [signal.getsignal(n) for n in (TERM, USR1, INT)] == before


def test_an_earlier_handler_is_called_too(tmp_path):
    calls = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: calls.append(number))
    try:
        with pytest.raises(SystemExit) as caught:
            toy_run.train(tmp_path, steps=5, signals={"rank 0 step 2": [USR1]})
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught.value.code == PREEMPTED
    assert calls == [USR1]


def test_the_hook_needs_ours_to_save(tmp_path):
    with pytest.raises(ValueError, match=r"sparc\.CheckpointHook"):
        toy_run.train(tmp_path, steps=5, checkpoint=dict(type="CheckpointHook"))
    with pytest.raises(ValueError, match="1 or more"):
        PreemptHook(every=0)
