"""The GPU reading, through a recorded driver that refuses what real drivers refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from engine import gpu

ANSWERS: dict[str, Any] = {
    "nvmlSystemGetDriverVersion": "580.126.09",
    "nvmlDeviceGetUUID": "GPU-1b9c2f6e-6f0e-4f6a-9a53-0e6f5f1c2d3e",
    "nvmlDeviceGetName": "NVIDIA GeForce RTX 4090",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=25_757_220_864, used=2_790_000_000, free=22_967_220_864),
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=98, memory=61),
    "nvmlDeviceGetTemperature": 71,
    "nvmlDeviceGetPowerUsage": 402_113,
    "nvmlDeviceGetEnforcedPowerLimit": 450_000,
    "nvmlDeviceGetFanSpeed": 64,
}
"""One answer to each question, in the driver's own units (bytes, percent, °C, mW)."""

FIELDS = {
    "nvmlSystemGetDriverVersion": {"driver"},
    "nvmlDeviceGetUUID": {"uuid"},
    "nvmlDeviceGetName": {"name"},
    "nvmlDeviceGetMemoryInfo": {"total_bytes", "used_bytes", "free_bytes"},
    "nvmlDeviceGetUtilizationRates": {"utilization"},
    "nvmlDeviceGetTemperature": {"temperature_c"},
    "nvmlDeviceGetPowerUsage": {"power_w"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w"},
    "nvmlDeviceGetFanSpeed": {"fan"},
}
"""The fields that hang on each question."""


class Driver:
    """Plays the recorded answers; each call named in `refused` raises that NVML error instead."""

    def __init__(self, count: int = 1, **refused: int) -> None:
        self.count, self.refused, self.shut_down = count, refused, 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return getattr(pynvml, name)  # the error classes and codes are the real ones

        def call(*arguments: Any) -> Any:
            if name in self.refused:
                raise pynvml.NVMLError(self.refused[name])
            if name == "nvmlShutdown":
                self.shut_down += 1
            if name == "nvmlDeviceGetCount":
                return self.count
            if name == "nvmlDeviceGetHandleByIndex":
                return arguments[0]
            if name == "nvmlDeviceGetUUID":
                return f"GPU-{arguments[0]}b9c2f6e"
            return ANSWERS.get(name)

        return call


@pytest.fixture(autouse=True)
def _all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_figures_come_in_the_units_of_their_names() -> None:
    (reading,) = gpu.read_from(Driver()).gpus
    assert reading.free_bytes == 22_967_220_864
    assert (reading.utilization, reading.fan) == (0.98, 0.64)
    assert (reading.power_w, reading.power_limit_w) == (402.113, 450.0)
    assert (reading.temperature_c, reading.driver) == (71.0, "580.126.09")


@pytest.mark.parametrize("question", FIELDS)
def test_a_question_that_the_driver_refuses_empties_its_own_fields_only(question: str) -> None:
    (whole,) = gpu.read_from(Driver()).gpus
    (reading,) = gpu.read_from(Driver(**{question: pynvml.NVML_ERROR_NOT_SUPPORTED})).gpus
    empty = {name for name, value in reading.model_dump().items() if value is None}
    assert empty == FIELDS[question]
    assert reading == whole.model_copy(update=dict.fromkeys(empty))


def test_names_as_bytes_become_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "nvmlDeviceGetName", b"NVIDIA \x1b[31mH200")
    (reading,) = gpu.read_from(Driver()).gpus
    assert reading.name == "NVIDIA \ufffd[31mH200"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "may not use"),
        (pynvml.NVML_ERROR_UNKNOWN, "does not answer"),
    ],
)
@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_driver_that_fails_is_a_sentence(code: int, said: str, call: str) -> None:
    status = gpu.read_from(Driver(**{call: code}))
    assert status.gpus == ()
    assert said in status.problem
    assert status.problem.endswith(".")


def test_a_machine_without_a_gpu_says_so() -> None:
    assert "sees no GPU" in gpu.read_from(Driver(count=0)).problem


def test_a_gpu_that_cannot_be_opened_is_left_out() -> None:
    status = gpu.read_from(Driver(nvmlDeviceGetHandleByIndex=pynvml.NVML_ERROR_GPU_IS_LOST))
    assert status.gpus == ()
    assert status.problem


def test_the_library_is_let_go_again() -> None:
    driver = Driver()
    gpu.read_from(driver)
    assert driver.shut_down == 1


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        ("0,1", ["GPU-0b9c2f6e", "GPU-1b9c2f6e"]),
        ("1", ["GPU-1b9c2f6e"]),
        ("1,0", ["GPU-1b9c2f6e", "GPU-0b9c2f6e"]),
        ("GPU-1b", ["GPU-1b9c2f6e"]),
        ("0,7,1", ["GPU-0b9c2f6e"]),  # CUDA stops reading at the first entry that names no GPU
        ("-1", []),
        ("", []),
    ],
)
def test_only_the_gpus_that_cuda_will_show_are_read(
    monkeypatch: pytest.MonkeyPatch, visible: str, uuids: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    status = gpu.read_from(Driver(count=2))
    assert [reading.uuid for reading in status.gpus] == uuids
    assert bool(status.problem) == (not uuids)


def test_this_machine_is_read_without_an_exception() -> None:
    status = gpu.read()
    assert bool(status.gpus) != bool(status.problem)


def test_a_pretended_gpu_is_all_free() -> None:
    reading = gpu.pretend(24 * 1024**3)
    assert reading.free_bytes == reading.total_bytes == 24 * 1024**3
