"""The fold: what a run's events add up to."""

from engine.events import Check, Checkpoint, Eval, Failed, Finished, Phase, Progress, Started, Step, Stopped
from engine.state import RunState, Status, fold


def step(number: int, loss: float = 1.0) -> Step:
    return Step(step=number, steps=10, epoch=0.1, loss=loss, lr=1e-4, step_s=2.0)


STARTED = Started(stage="train", pid=1, t=1.0)


def test_nothing_yet_is_queued() -> None:
    assert RunState().status(locked=False) is Status.QUEUED


def test_a_held_lock_is_running_whatever_the_events_say() -> None:
    assert fold(RunState(), [STARTED, Failed(stage="train", title="x")]).status(locked=True) is Status.RUNNING


def test_a_start_without_an_end_and_without_a_lock_is_lost() -> None:
    assert fold(RunState(), [STARTED, step(1)]).status(locked=False) is Status.LOST


def test_each_end_has_its_status() -> None:
    for event, status in (
        (Finished(stage="train", seconds=1), Status.FINISHED),
        (Stopped(stage="train"), Status.STOPPED),
        (Failed(stage="train", title="x"), Status.FAILED),
    ):
        assert fold(RunState(), [STARTED, event]).status(locked=False) is status


def test_a_side_stage_that_fails_does_not_undo_a_finished_run() -> None:
    done = [STARTED, Finished(stage="train", seconds=1, t=2.0)]
    state = fold(RunState(), [*done, Started(stage="ollama", pid=1, t=3.0), Failed(stage="ollama", title="x", t=4.0)])
    assert state.status(locked=False) is Status.FINISHED
    assert state.stages["ollama"].failed is not None


def test_folding_in_batches_equals_folding_at_once() -> None:
    events = [
        STARTED,
        *(step(n) for n in range(1, 8)),
        Eval(step=5, loss=0.5),
        Finished(stage="train", seconds=9),
    ]
    state = RunState()
    for event in events:
        state = fold(state, [event])
    assert state == fold(RunState(), events)


def test_folding_leaves_the_earlier_state_alone() -> None:
    first = fold(RunState(), [STARTED, step(1)])
    fold(first, [step(2), Phase(stage="train", text="x")])
    assert [seen.step for seen in first.steps] == [1]
    assert first.stages["train"].phase == ""


def test_steps_after_a_resume_replace_those_that_were_lost() -> None:
    state = fold(RunState(), [step(n, loss=1.0) for n in range(1, 6)] + [step(4, loss=2.0)])
    assert [(seen.step, seen.loss) for seen in state.steps] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


def test_time_left_follows_the_pace() -> None:
    assert fold(RunState(), [step(4)]).left_s == 12.0


def test_the_best_evaluation_is_the_lowest() -> None:
    state = fold(RunState(), [Eval(step=1, loss=0.9), Eval(step=2, loss=0.4), Eval(step=3, loss=0.6)])
    assert state.best_eval is not None
    assert state.best_eval.step == 2


def test_a_new_certificate_replaces_the_old_one() -> None:
    check = Check(form="bf16", title="a", compared="b", figure="c", limit="d", passed=True)
    start = Started(stage="certify", pid=1)
    assert len(fold(RunState(), [start, check, check, start, check]).checks) == 1


def test_progress_has_a_rate_within_its_label() -> None:
    events = [
        Started(stage="gguf", pid=1, t=0),
        Progress(stage="gguf", done=1, total=4, label="a", t=10),
        Progress(stage="gguf", done=2, total=4, label="a", t=20),
    ]
    assert fold(RunState(), events).stages["gguf"].left_s == 10.0


def test_checkpoints_are_collected() -> None:
    state = fold(RunState(), [Checkpoint(step=3, path="checkpoints/checkpoint-3", size_bytes=1)])
    assert state.checkpoints[-1].step == 3


def certified_run(passed: bool = True) -> RunState:
    check = Check(form="bf16", title="a", compared="b", figure="c", limit="d", passed=passed)
    events = [
        Started(stage="gguf", pid=1, t=1.0),
        Finished(stage="gguf", seconds=1, t=2.0),
        Started(stage="certify", pid=1, t=3.0),
        check,
        Finished(stage="certify", seconds=1, t=4.0),
    ]
    return fold(RunState(), events)


def test_a_certificate_holds_through_stages_that_make_nothing() -> None:
    after = [Started(stage="eval", pid=1, t=5.0), Finished(stage="eval", seconds=1, t=6.0)]
    assert fold(certified_run(), after).certified is True
    assert certified_run(passed=False).certified is False


def test_a_certificate_is_void_once_something_is_made_again() -> None:
    assert fold(certified_run(), [Started(stage="gguf", pid=1, t=5.0)]).certified is None
