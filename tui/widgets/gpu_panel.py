"""What computes: the GPU's own figures, or the worker's share of the processor and the memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

from textual.app import RenderResult
from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.widget import Widget

from engine.events import Gpu
from engine.gpu import GpuReading, GpuStatus
from engine.units import format_bytes
from tui.messages import Usage
from tui.widgets.gpu_history import History
from tui.widgets.gpu_lines import (
    body,
    detail_line,
    figure_lines,
    gpu_line,
    load_line,
    of,
    planned_line,
    process_lines,
    remark_lines,
    short_name,
    trouble,
    wrapped,
)
from tui.widgets.title_bar import spread

__all__ = ["GpuPanel", "gpu_line", "load_line"]

COMPACT = 3
"""Up to so many lines there are figures only."""

TWO_COLUMNS = 70
"""From this width on the processes stand beside the figures."""


class GpuPanel(Widget):
    """Three lines, a column, or two: as much as there is room for."""

    status: reactive[GpuStatus | None] = reactive(None)
    usage: reactive[Usage | None] = reactive(None)
    ours: reactive[frozenset[int]] = reactive(frozenset())
    """The run's own processes, by pid."""
    uuid: reactive[str] = reactive("")
    """The GPU that the run was planned for; empty: the first one."""
    planned_bytes: reactive[int | None] = reactive(None)
    device: reactive[str] = reactive("")
    """What the worker says that it computes on."""
    past: reactive[Sequence[Gpu]] = reactive((), repaint=False)
    """What the worker told before anybody looked."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._history = History()
        self._lines = 0
        self._begun = False

    def watch_status(self, status: GpuStatus | None) -> None:
        """One more reading for the history; more or fewer lines move what stands below."""
        gpu = self._gpu
        self._begin()
        if status is not None and gpu is not None and not gpu.problem and not status.silent_s:
            self._history.add(time.time(), gpu)
        if self.is_mounted and len(self._tall(self.content_size.width)) != self._lines:
            self.refresh(layout=True)

    def watch_past(self) -> None:
        """The line begins before the screen was opened."""
        self._begin()

    def _begin(self) -> None:
        """Put what the worker told first, once it is sure that it told of the GPU that is shown."""
        gpu = self._gpu
        if self._begun or not self.past or gpu is None:
            return
        self._begun = True
        if not self.uuid or gpu.uuid == self.uuid:
            self._history.add_past(self.past)

    @property
    def _gpu(self) -> GpuReading | None:
        return self.status.find(self.uuid) if self.status is not None else None

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002
        """As many lines as the column has."""
        self._lines = len(self._tall(width))
        return self._lines

    def render(self) -> RenderResult:
        """The lines that fit."""
        width, height = self.content_size
        if height <= COMPACT:
            lines = self._compact(width)
        elif width >= TWO_COLUMNS and self._gpu is not None:
            lines = self._wide(width, height)
        else:
            lines = self._tall(width)
        return Content("\n").join(lines[: max(height, 1)])

    def _compact(self, width: int) -> list[Content]:
        gpu, wrong = self._gpu, trouble(self.status, self._gpu)
        if gpu is None:
            return self._without(width)
        if gpu.problem:
            return [Content(short_name(gpu)), *wrapped(wrong, "✗ ", "$error", width, COMPACT - 1)]
        plan = Content(f"planned {format_bytes(self.planned_bytes)}") if self.planned_bytes else Content("")
        silent_s = self.status.silent_s if self.status is not None else 0
        old = Content.styled(f"! no answer for {silent_s:.0f} s: old figures", "$warning")
        return [
            load_line(short_name(gpu), gpu.utilization, width),
            spread(Content(f"VRAM {of(gpu.used_bytes, gpu.total_bytes)}"), plan, width),
            old if silent_s else Content(body(gpu)),
        ]

    def _tall(self, width: int) -> list[Content]:
        gpu = self._gpu
        if gpu is None:
            return self._without(width)
        if gpu.problem:
            return self._figures(gpu, width)
        processes = process_lines(gpu, self.ours, 3, width)
        return [*self._figures(gpu, width), *processes, *remark_lines(gpu, width, 3)]

    def _wide(self, width: int, height: int) -> list[Content]:
        """Figures at the left, who holds the memory at the right."""
        gpu = self._gpu
        assert gpu is not None
        half = (width - 3) // 2
        left = self._figures(gpu, half)
        holding = [] if gpu.problem else process_lines(gpu, self.ours, max(height - 3, 1), half)
        right = [*holding, *remark_lines(gpu, half)]
        if gpu.processes:
            right.insert(0, Content.styled("holds memory", "$quiet"))
        blank, rule = Content(""), Content.styled(" │ ", "$rule")
        count = min(max(len(left), len(right)), height)
        rows = zip((left + [blank] * count)[:count], (right + [blank] * count)[:count], strict=True)
        return [Content.assemble(first.pad_right(half - first.cell_length), rule, second) for first, second in rows]

    def _figures(self, gpu: GpuReading, width: int) -> list[Content]:
        name = Content.styled(short_name(gpu), "bold")
        wrong = trouble(self.status, gpu)
        if gpu.problem:
            return [name, *wrapped(wrong, "✗ ", "$error", width)]
        scale = Content.styled("last 5 min" if name.cell_length + 12 <= width else "", "$quiet")
        lines = [spread(name, scale, width), *wrapped(wrong, "! ", "$warning", width)]
        if self.uuid and gpu.uuid != self.uuid:
            lines += wrapped("The run was planned for another GPU, which is not here.", "! ", "$warning", width)
        lines += [*figure_lines(gpu, self._history, time.time(), width), detail_line(gpu, width)]
        if self.planned_bytes:
            held = [process.used_bytes for process in gpu.processes or () if process.pid in self.ours]
            used = sum(size for size in held if size is not None) or None
            lines.append(planned_line(self.planned_bytes, used, width))
        return lines

    def _without(self, width: int) -> list[Content]:
        """No GPU: what the worker takes of the machine, and why it has to."""
        status, usage = self.status, self.usage
        if status is None:
            return [Content(self.device), Content.styled("asking the NVIDIA driver …", "$quiet")]
        wanted = status.broken or self.planned_bytes is not None
        mark, style = ("! ", "$warning") if wanted else ("", "$quiet")
        why = wrapped(status.problem, mark, style, width)
        if usage is None:
            return [Content(self.device or "no GPU"), *why]
        lines = [
            load_line(f"CPU · {usage.cores} cores", usage.cpu_share, width),
            Content(f"memory of the worker {of(usage.rss_bytes, usage.total_bytes)}"),
        ]
        return lines + (list(why) if wanted else [Content.styled("no GPU: small models only", "$quiet")])
