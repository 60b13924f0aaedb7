"""What computes: the GPU's own figures, or the worker's share of the processor and the memory."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from engine.gpu import GpuReading, GpuStatus
from engine.text import clean_line
from engine.units import GIB, format_bytes, format_share
from tui.messages import Usage
from tui.widgets.title_bar import spread


class GpuPanel(Widget):
    """A few lines: name and load, memory against the plan, temperature and power."""

    status: reactive[GpuStatus | None] = reactive(None)
    usage: reactive[Usage | None] = reactive(None)
    uuid: reactive[str] = reactive("")
    """The GPU that the run was planned for; empty: the first one."""
    planned_bytes: reactive[int | None] = reactive(None)
    device: reactive[str] = reactive("")
    """What the worker says that it computes on."""

    def render(self) -> RenderResult:
        """The lines that fit."""
        width, height = self.content_size
        gpu = chosen(self.status, self.uuid)
        lines = self._gpu_lines(gpu, width) if gpu is not None else self._cpu_lines(width)
        return Content("\n").join(lines[: max(height, 1)])

    def _gpu_lines(self, gpu: GpuReading, width: int) -> list[Content]:
        planned = self.planned_bytes
        verdict = Content("")
        if planned is not None and gpu.used_bytes is not None:
            verdict = Content.assemble("planned ", format_bytes(planned))
        return [
            load_line(clean_line(gpu.name or "GPU"), gpu.utilization, width),
            spread(Content(f"VRAM {_of(gpu.used_bytes, gpu.total_bytes)}"), verdict, width),
            Content("   ".join(_body(gpu))),
        ]

    def _cpu_lines(self, width: int) -> list[Content]:
        usage = self.usage
        if usage is None:
            problem = clean_line(self.status.problem) if self.status is not None else ""
            return [Content(self.device or "no GPU"), Content.styled(problem, "$quiet")]
        return [
            load_line(f"CPU · {usage.cores} cores", usage.cpu_share, width),
            Content(f"memory of the worker {_of(usage.rss_bytes, usage.total_bytes)}"),
            Content.styled("no GPU: small models only", "$quiet"),
        ]


def chosen(status: GpuStatus | None, uuid: str = "") -> GpuReading | None:
    """The GPU of that uuid, else the first one; None if there is none."""
    if status is None or not status.gpus:
        return None
    return next((gpu for gpu in status.gpus if uuid and gpu.uuid == uuid), status.gpus[0])


def load_line(name: str, share: float | None, width: int) -> Content:
    """A name at the left; the load as a figure and a bar at the right."""
    full = round((share or 0.0) * 8)
    bar = Content.assemble(f"{format_share(share):>5} ", ("━" * full, "$primary"), ("╌" * (8 - full), "$rule"))
    return spread(Content(name), bar, width)


def gpu_line(status: GpuStatus | None) -> Content:
    """The GPU in one line for a title; without one, what that means."""
    if status is None:
        return Content("")
    gpu = chosen(status)
    if gpu is None:
        return Content.styled("no GPU: the demo and small models run on the CPU", "$quiet")
    parts = [clean_line(gpu.name or "GPU")]
    if gpu.free_bytes is not None and gpu.total_bytes is not None:
        parts.append(f"{gpu.free_bytes / GIB:.1f} of {format_bytes(gpu.total_bytes)} free")
    parts += [part for part in _body(gpu) if not part.startswith("fan")]
    if gpu.driver:
        parts.append(f"driver {clean_line(gpu.driver)}")
    return Content(" · ".join(parts))


def _of(used: int | None, total: int | None) -> str:
    if used is None or total is None:
        return f"{format_bytes(used)} / {format_bytes(total)}"
    return f"{used / GIB:.1f} / {total / GIB:.1f} GiB"


def _body(gpu: GpuReading) -> list[str]:
    """Temperature, power and fan, as far as they are known."""
    parts = []
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c:.0f} °C")
    if gpu.power_w is not None:
        limit = f" / {gpu.power_limit_w:.0f}" if gpu.power_limit_w is not None else ""
        parts.append(f"{gpu.power_w:.0f}{limit} W")
    if gpu.fan is not None:
        parts.append(f"fan {format_share(gpu.fan)}")
    return parts
