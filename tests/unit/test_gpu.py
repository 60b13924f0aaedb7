"""The GPU reading, through machines' recorded drivers that refuse what real drivers refuse."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import nvml
import psutil
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import gpu
from engine.gpu import GpuReading, GpuStatus, Reader
from engine.gpu.nvml import visible
from engine.gpu.patience import Patient
from engine.gpu.processes import name_of
from engine.gpu.words import holders, remarks

Play = Callable[[str], nvml.Machine]

FIELDS = {
    "nvmlSystemGetDriverVersion": {"driver"},
    "nvmlSystemGetCudaDriverVersion_v2": {"cuda"},
    "nvmlDeviceGetUUID": {"uuid"},
    "nvmlDeviceGetName": {"name"},
    "nvmlDeviceGetMemoryInfo": {"total_bytes", "used_bytes", "free_bytes", "reserved_bytes"},
    "nvmlDeviceGetUtilizationRates": {"utilization", "memory_utilization"},
    "nvmlDeviceGetTemperature": {"temperature_c"},
    "nvmlDeviceGetPowerUsage": {"power_w"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w"},
    "nvmlDeviceGetFanSpeed": {"fan"},
    "nvmlDeviceGetClockInfo": {"sm_clock_mhz", "memory_clock_mhz"},
    "nvmlDeviceGetCudaComputeCapability": {"compute_capability"},
    "nvmlDeviceGetMigMode": set(),
    "nvmlDeviceGetComputeRunningProcesses": set(),
    "nvmlDeviceGetGraphicsRunningProcesses": set(),
}
"""The fields that hang on each question; of the two lists of processes one is enough."""

CODES = sorted({getattr(pynvml, name) for name in dir(pynvml) if name.startswith("NVML_ERROR_")})


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    return lambda name: nvml.machine(name, monkeypatch)


def only(status: GpuStatus) -> GpuReading:
    (reading,) = status.gpus
    return reading


def moments(machine: nvml.Machine, count: int) -> Iterator[GpuStatus]:
    """What one reader, that keeps NVML open, tells moment by moment."""
    reader = Reader(machine, retry_s=0)
    for _ in range(count):
        yield reader.read()
        machine.pass_on()


# what is told


def test_figures_come_in_the_units_of_their_names(play: Play) -> None:
    reading = only(gpu.read_from(play("workstation")))
    assert (reading.total_bytes, reading.free_bytes) == (25_757_220_864, 15_919_349_760)
    assert (reading.utilization, reading.memory_utilization, reading.fan) == (0.98, 0.61, 0.64)
    assert (reading.power_w, reading.power_limit_w, reading.temperature_c) == (402.113, 450.0, 71.0)
    assert (reading.sm_clock_mhz, reading.memory_clock_mhz) == (2520, 10501)
    assert (reading.driver, reading.cuda, reading.compute_capability) == ("580.126.09", "13.0", (8, 9))
    assert None not in reading.model_dump().values()


def test_used_memory_is_told_without_what_the_driver_reserves(play: Play) -> None:
    reading = only(gpu.read_from(play("workstation")))
    assert reading.used_bytes == 9_336_520_704
    assert reading.reserved_bytes == 501_350_400
    assert reading.total_bytes == reading.used_bytes + reading.free_bytes + reading.reserved_bytes


def test_an_old_driver_is_asked_in_its_own_way(play: Play) -> None:
    reading = only(gpu.read_from(play("old-driver")))
    assert (reading.used_bytes, reading.reserved_bytes) == (1_150_156_800, None)
    assert [process.pid for process in reading.processes or ()] == [4711]


def test_processes_that_compute_and_that_draw_are_one_list_most_memory_first(play: Play) -> None:
    machine = play("workstation")
    both = machine._told["moments"][0]["devices"][0]
    both["nvmlDeviceGetComputeRunningProcesses"].append({"pid": 1203, "usedGpuMemory": None})
    told = only(gpu.read_from(machine)).processes or ()
    assert [(process.pid, process.name, process.kind) for process in told] == [
        (4711, "python3 train.py", "compute"),
        (1203, "Xorg", "both"),
        (2044, "gnome-shell", "graphics"),
    ]
    assert told[1].used_bytes == 341_835_776


def test_text_from_the_driver_is_cleaned(play: Play) -> None:
    machine = play("workstation")
    machine._told["moments"][0]["devices"][0]["nvmlDeviceGetName"] = "NVIDIA \x1b[31mH200"
    assert only(gpu.read_from(machine)).name == "NVIDIA \ufffd[31mH200"


# each field fails alone


@given(st.sampled_from(sorted(FIELDS)), st.sampled_from(CODES))
def test_a_question_that_fails_in_any_way_empties_its_own_fields_only(question: str, code: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        machine = nvml.machine("workstation", patch)
        whole = only(gpu.read_from(machine))
        machine.refuse[question] = code
        status = gpu.read_from(machine)
        (reading,) = (*status.gpus, *status.unusable)
        empty = {name for name, value in reading.model_dump().items() if value is None}
        assert empty == FIELDS[question]
        kept = set(GpuReading.model_fields) - empty - {"unified", "problem", "lost", "processes"}
        assert {name: getattr(reading, name) for name in kept} == {name: getattr(whole, name) for name in kept}
        assert reading.processes


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.sampled_from(CODES)))
def test_whatever_is_refused_no_figure_becomes_zero(refused: dict[str, int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        machine = nvml.machine("workstation", patch)
        machine.refuse |= refused
        status = gpu.read_from(machine)
        for reading in (*status.gpus, *status.unusable):
            figures = reading.model_dump(exclude={"index", "mig", "unified", "wsl", "lost"})
            assert 0 not in figures.values()
        assert bool(status.gpus) != bool(status.problem)


def test_no_permission_for_some_questions_costs_their_fields(play: Play) -> None:
    status = gpu.read_from(play("no-permission-fields"))
    reading = only(status)
    assert (reading.power_w, reading.power_limit_w, reading.processes) == (None, None, None)
    assert (reading.utilization, reading.temperature_c, status.problem) == (0.98, 71.0, "")


# machines


@pytest.mark.parametrize(
    ("name", "said", "broken"),
    [
        ("no-driver", "no NVIDIA driver", False),
        ("driver-not-loaded", "modprobe nvidia", True),
        ("driver-mismatch", "reboot", True),
        ("no-permission", "/dev/nvidia0", True),
        ("no-permission-device", "/dev/nvidia0", True),
        ("no-devices", "sees no GPU", False),
        ("mig-no-slice", "nvidia-smi mig -cgi", True),
    ],
)
def test_without_a_usable_gpu_a_sentence_says_why_and_what_to_do(
    play: Play, name: str, said: str, broken: bool
) -> None:
    status = gpu.read_from(play(name))
    assert status.gpus == ()
    assert said in status.problem
    assert status.problem.endswith(".")
    assert status.broken is broken


def test_a_laptop_has_no_power_limit_and_no_fan(play: Play) -> None:
    reading = only(gpu.read_from(play("laptop")))
    assert (reading.power_w, reading.power_limit_w, reading.fan) == (11.87, None, None)
    assert any("usual on laptops" in words for words in remarks(reading))


def test_under_wsl2_nobody_is_named_and_that_is_not_nobody(play: Play) -> None:
    reading = only(gpu.read_from(play("wsl2")))
    assert reading.wsl
    assert (reading.processes, reading.utilization, reading.unified) == (None, None, False)
    assert "load and processes are not told" in " ".join(remarks(reading))


def test_a_card_in_mig_mode_is_read_slice_by_slice(play: Play) -> None:
    status = gpu.read_from(play("mig"))
    assert [str(reading.uuid)[:8] for reading in status.gpus] == ["MIG-5f9a", "MIG-0c7b"]
    assert [reading.total_bytes for reading in status.gpus] == [42_412_802_048, 20_937_965_568]
    assert all(reading.mig and reading.index == 0 and not reading.unified for reading in status.gpus)
    assert all((reading.utilization, reading.power_w, reading.temperature_c) == (None,) * 3 for reading in status.gpus)
    assert "for the whole card" in " ".join(remarks(status.gpus[0]))


def test_shared_memory_is_not_available_and_not_zero(play: Play) -> None:
    reading = only(gpu.read_from(play("unified-memory")))
    assert (reading.total_bytes, reading.used_bytes, reading.free_bytes) == (None, None, None)
    assert reading.unified
    assert "shares the machine's memory" in " ".join(remarks(reading))


def test_memory_told_as_zeros_is_not_told(play: Play) -> None:
    machine = play("unified-memory")
    zeros = {"total": 0, "reserved": 0, "used": 0, "free": 0}
    machine._told["moments"][0]["devices"][0]["nvmlDeviceGetMemoryInfo_v2"] = zeros
    reading = only(gpu.read_from(machine))
    assert (reading.total_bytes, reading.unified) == (None, True)


@pytest.mark.parametrize("name", nvml.names())
def test_no_machine_raises_at_any_moment(play: Play, name: str) -> None:
    for status in moments(play(name), 5):
        assert status.gpus or status.problem
        assert bool(status.gpus) != bool(status.problem)
        assert all(reading.problem for reading in status.unusable)


# what vanishes and comes back


def test_a_lost_gpu_keeps_its_name_and_comes_back(play: Play) -> None:
    machine = play("gpu-lost")
    before, answers_lost, no_handle, back = moments(machine, 4)
    uuid = only(before).uuid
    for status in (answers_lost, no_handle):
        assert status.gpus == ()
        assert [reading.uuid for reading in status.unusable] == [uuid]
        assert "NVIDIA GeForce RTX 4090 is lost" in status.problem
        assert status.unusable[0].utilization is None
    assert only(back).uuid == uuid
    assert back.unusable == ()
    assert machine.opened == 3, "opened anew after each reading that found it lost"


def test_while_a_gpu_is_lost_the_library_is_opened_anew_only_now_and_then(play: Play) -> None:
    machine = play("gpu-lost")
    reader = Reader(machine, retry_s=60)
    for _ in range(3):
        reader.read()
        machine.pass_on()
    assert machine.opened == 1


def test_a_gpu_that_answers_nothing_but_unknown_errors_is_lost(play: Play) -> None:
    _, after = moments(play("gpu-unknown-errors"), 2)
    assert after.gpus == ()
    assert "does not answer" in after.problem


def test_a_gpu_that_needs_a_reset_says_how(play: Play) -> None:
    _, after = moments(play("reset-required"), 2)
    assert "nvidia-smi --gpu-reset" in after.problem
    assert after.unusable[0].temperature_c == 71


def test_of_two_gpus_the_lost_one_is_told_and_the_other_stays(play: Play) -> None:
    before, lost, unlisted = moments(play("two-gpus-one-lost"), 3)
    small, fast = before.gpus
    for status in (lost, unlisted):
        assert [reading.uuid for reading in status.gpus] == [small.uuid]
        assert status.problem == ""
        found = status.find(fast.uuid or "")
        assert found is not None
        assert found.name == "NVIDIA GeForce RTX 4090"
        assert found.problem


@pytest.mark.parametrize("name", ["driver-reloaded", "driver-updated-mid-run"])
def test_a_driver_that_goes_away_and_comes_back_is_found_again(play: Play, name: str) -> None:
    before, gone, back = moments(play(name), 3)
    assert gone.gpus == ()
    assert gone.problem
    assert gone.unusable[0].uuid == only(before).uuid == only(back).uuid
    assert back.unusable == ()


def test_the_library_is_opened_once_and_let_go_at_the_end(play: Play) -> None:
    machine = play("workstation")
    reader = Reader(machine)
    for _ in range(5):
        reader.read()
    assert (machine.opened, machine.closed) == (1, 0)
    reader.close()
    reader.close()
    assert machine.closed == 1


def test_a_library_that_is_not_installed_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "cannot be loaded" in Reader().read().problem


# which GPUs


def test_gpus_are_counted_as_nvidia_smi_does_and_chosen_by_uuid(play: Play) -> None:
    status = gpu.read_from(play("two-gpus"))
    assert [(reading.index, reading.name) for reading in status.gpus] == [
        (0, "NVIDIA RTX A4000"),
        (1, "NVIDIA GeForce RTX 4090"),
    ]
    fast = status.gpus[1]
    assert status.find(fast.uuid or "") == fast
    assert status.find() == status.gpus[0]


@pytest.mark.parametrize(
    ("variable", "uuids"),
    [
        ("0,1", ["GPU-7d0a", "GPU-1b9c"]),
        ("1", ["GPU-1b9c"]),
        ("1,0", ["GPU-1b9c", "GPU-7d0a"]),
        ("GPU-1b", ["GPU-1b9c"]),
        ("0,7,1", ["GPU-7d0a"]),  # CUDA stops reading at the first entry that names no GPU
        ("-1", []),
        ("", []),
    ],
)
def test_only_the_gpus_that_cuda_will_show_are_read(
    play: Play, monkeypatch: pytest.MonkeyPatch, variable: str, uuids: list[str]
) -> None:
    machine = play("two-gpus")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    status = gpu.read_from(machine)
    assert [str(reading.uuid)[:8] for reading in status.gpus] == uuids
    assert bool(status.problem) == (not uuids)


def test_a_slice_is_chosen_by_its_own_uuid(play: Play) -> None:
    slices = list(gpu.read_from(play("mig")).gpus)
    assert visible(slices, "MIG-0c7b") == slices[1:]


def test_a_pretended_gpu_is_all_free() -> None:
    reading = gpu.pretend(24 * 1024**3)
    assert reading.free_bytes == reading.total_bytes == 24 * 1024**3


# who holds the memory


def test_a_process_is_named_by_what_it_runs_and_its_arguments_stay_unsaid() -> None:
    assert name_of(os.getpid()) is not None
    code = "import time; time.sleep(60)"
    for command, named in (
        ([sys.executable, "-c", code, "--token=secret"], ""),
        ([sys.executable, "-S", "-m", "timeit", "-n", "1", code], "timeit"),
    ):
        with psutil.Popen(command) as child:
            try:
                name = name_of(child.pid) or ""
                assert name.startswith("python")
                assert name.partition(" ")[2] == named
            finally:
                child.kill()


def test_a_process_that_is_not_there_has_no_name() -> None:
    assert name_of(2**22 + 1) is None


def test_those_to_close_are_named_without_our_own(play: Play) -> None:
    reading = only(gpu.read_from(play("workstation")))
    told = list(holders(reading, ours={4711}))
    assert [words.split(",")[0] for words in told] == ["Xorg", "gnome-shell"]
    assert "326 MiB" in told[0]
    assert "kill" not in told[0], "ending what draws the screen ends the session"
    assert "kill 4711" in next(iter(holders(reading)))


# a driver that hangs


def test_this_machine_is_read_without_an_exception() -> None:
    status = gpu.read()
    assert bool(status.gpus) != bool(status.problem)


def test_a_driver_that_hangs_keeps_nobody_waiting_and_is_told() -> None:
    hanging, answer = threading.Event(), GpuStatus(gpus=(GpuReading(name="RTX"),))
    calls: list[float] = []

    def read() -> GpuStatus:
        calls.append(time.monotonic())
        if len(calls) == 2:
            hanging.wait(20)
        return answer

    patient = Patient(read, first_s=5, later_s=0.05, interval_s=0)
    assert patient.read() == answer
    began = time.monotonic()
    told = [patient.read() for _ in range(3)]
    assert time.monotonic() - began < 2
    assert len(calls) == 2, "while one question hangs no second one is asked"
    assert all(status.gpus == answer.gpus and "has not answered" in status.problem for status in told)
    assert 0 < told[0].silent_s < told[2].silent_s
    hanging.set()
    while patient.read().silent_s:
        assert time.monotonic() - began < 10
    assert patient.read() == answer


def test_a_driver_is_read_at_most_twice_a_second_whoever_asks() -> None:
    times: list[float] = []

    def read() -> GpuStatus:
        times.append(time.monotonic())
        return GpuStatus()

    patient = Patient(read, interval_s=0.1)
    threads = [threading.Thread(target=patient.read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 4
    assert all(after - before >= 0.099 for before, after in pairwise(times))


def test_a_defect_of_ours_is_raised_where_it_was_asked() -> None:
    def read() -> GpuStatus:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Patient(read).read()
