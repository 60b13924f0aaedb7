"""A GPU's reading as lines of text: figures with bars, who holds its memory, and what is special about it."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator

from textual.content import Content

from engine.gpu import GpuProcess, GpuReading, GpuStatus, remarks
from engine.text import clean_line
from engine.units import GIB, format_bytes, format_share
from tui.widgets.columns import cell
from tui.widgets.gpu_history import Figure, History, shares
from tui.widgets.title_bar import spread

BAR, VALUE = 6, 14
"""Cells of a bar, and of a figure."""


def short_name(gpu: GpuReading) -> str:
    """The GPU's name without its maker's."""
    return clean_line(gpu.name or "GPU").removeprefix("NVIDIA ").removeprefix("GeForce ")


def bar(share: float | None, width: int) -> Content:
    """A share as a bar that is read without colour; empty where there is none."""
    if share is None:
        return Content(" " * width)
    full = round(min(max(share, 0.0), 1.0) * width)
    return Content.assemble(("━" * full, "$primary"), ("╌" * (width - full), "$rule"))


def load_line(name: str, share: float | None, width: int) -> Content:
    """A name at the left; the load as a figure and a bar at the right."""
    return spread(Content(name), Content.assemble(f"{format_share(share):>5} ", bar(share, 8)), width)


def of(used: int | None, total: int | None) -> str:
    """`9.0 / 24.0 GiB`; what is not told is n/a."""
    if total is None:
        return f"{format_bytes(used)} / n/a" if used is not None else "n/a"
    digits = 0 if total >= 100 * GIB else 1
    return f"{'n/a' if used is None else f'{used / GIB:.{digits}f}'} / {total / GIB:.{digits}f} GiB"


def watts(gpu: GpuReading) -> str:
    """`402 / 450 W`; without a limit `38 W`."""
    if gpu.power_w is None:
        return "n/a"
    return f"{gpu.power_w:.0f}{f' / {gpu.power_limit_w:.0f}' if gpu.power_limit_w is not None else ''} W"


def degrees(gpu: GpuReading) -> str:
    """`71 °C`."""
    return "n/a" if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} °C"


def body(gpu: GpuReading) -> str:
    """Temperature, power and fan, as far as they are told; a word if none of them is."""
    told = [
        degrees(gpu) if gpu.temperature_c is not None else "",
        watts(gpu) if gpu.power_w is not None else "",
        f"fan {format_share(gpu.fan)}" if gpu.fan is not None else "",
    ]
    return "   ".join(filter(None, told)) or "heat and power n/a"


def figure_lines(gpu: GpuReading, history: History, now: float, width: int) -> Iterator[Content]:
    """Load, memory, heat and power, each with its bar and its last minutes."""
    told = shares(gpu)
    values: dict[Figure, str] = {
        "load": format_share(gpu.utilization),
        "VRAM": of(gpu.used_bytes, gpu.total_bytes),
        "heat": degrees(gpu),
        "power": watts(gpu),
    }
    room = width - 5 - 1 - VALUE - 1 - BAR - 1
    for figure, value in values.items():
        line = history.line(figure, now, room) if room >= 4 else ""
        yield Content.assemble(
            (f"{figure:<5} ", "$quiet"), f"{value:>{VALUE}} ", bar(told.of(figure), BAR), (f" {line}", "$tuned")
        )


def detail_line(gpu: GpuReading, width: int) -> Content:
    """Fan and clocks; of a whole line of figures that are not told, the words."""
    clocks = [
        f"{label} {clock / 1000:.2f} GHz"
        for label, clock in (("SM", gpu.sm_clock_mhz), ("mem", gpu.memory_clock_mhz))
        if clock is not None
    ]
    parts = [f"fan {format_share(gpu.fan)}", *(clocks or ["clocks n/a"])]
    return Content.styled("  ".join(parts), "$quiet").truncate(width, ellipsis=True)


def planned_line(planned: int, used: int | None, width: int) -> Content:
    """What the plan said that the run needs, and what it holds: a mark and a word say whether it keeps to it."""
    if used is None:
        return Content.styled(f"planned {format_bytes(planned)}", "$quiet").truncate(width, ellipsis=True)
    figures = f"holds {used / GIB:.1f} of {format_bytes(planned)} planned "
    kept = ("✓", "$success") if used <= planned else ("! above", "$warning")
    return Content.assemble(figures, kept).truncate(width, ellipsis=True)


def process_lines(gpu: GpuReading, ours: Collection[int], most: int, width: int) -> Iterator[Content]:
    """The processes that hold the most memory; those of this run are marked, by a sign and a word."""
    if gpu.processes is None:
        yield Content.styled("who holds its memory: n/a", "$quiet").truncate(width, ellipsis=True)
        return
    if not gpu.processes:
        yield Content.styled("no process is said to hold its memory", "$quiet").truncate(width, ellipsis=True)
        return
    shown = gpu.processes[:most]
    yield from (_process_line(process, process.pid in ours, width) for process in shown)
    rest = gpu.processes[most:]
    if rest:
        held = sum(process.used_bytes or 0 for process in rest)
        more = f"  + {len(rest)} more, {format_bytes(held)}"
        yield Content.styled(more, "$quiet").truncate(width, ellipsis=True)


def _process_line(process: GpuProcess, own: bool, width: int) -> Content:
    who = Content.styled("this run", "$tuned") if own else Content(clean_line(process.name or "name n/a"))
    size = Content(f"{format_bytes(process.used_bytes):>9}")
    head = Content.assemble(("● ", "$tuned") if own else "· ", f"{process.pid:<8}")
    room = max(width - head.cell_length - size.cell_length - 1, 0)
    return Content.assemble(head, cell(who, room), " ", size).truncate(width, ellipsis=True)


def trouble(status: GpuStatus | None, gpu: GpuReading | None) -> str:
    """What is wrong, in a sentence: with this GPU, else with the driver; empty if all is well."""
    if gpu is not None and gpu.problem:
        return gpu.problem
    return status.problem if status is not None else ""


def wrapped(text: str, mark: str, style: str, width: int, most: int | None = None) -> Iterator[Content]:
    """A sentence over as many lines as it takes, or as there are, behind a mark."""
    room = max(width - len(mark), 8)
    lines = textwrap.wrap(clean_line(text, 400), room, max_lines=most, placeholder=" …")
    for number, line in enumerate(lines):
        yield Content.styled((mark if number == 0 else " " * len(mark)) + line, style)


def remark_lines(gpu: GpuReading, width: int, most: int | None = None) -> Iterator[Content]:
    """What is special about this GPU."""
    for remark in remarks(gpu):
        yield from wrapped(remark, "  ", "$quiet", width, most)


def gpu_line(status: GpuStatus | None) -> Content:
    """The GPU in one line for a title; without one, what that means."""
    if status is None:
        return Content("")
    gpu = status.find()
    if status.broken and status.problem:
        return Content.styled(f"! {clean_line(status.problem)}", "$warning")
    if gpu is None:
        return Content.styled("no GPU: the demo and small models run on the CPU", "$quiet")
    parts = [short_name(gpu)]
    if gpu.free_bytes is not None and gpu.total_bytes is not None:
        parts.append(f"{gpu.free_bytes / GIB:.1f} of {format_bytes(gpu.total_bytes)} free")
    elif gpu.unified:
        parts.append("shares the machine's memory")
    parts += [told for told in (degrees(gpu), watts(gpu)) if told != "n/a"]
    if gpu.driver:
        parts.append(f"driver {clean_line(gpu.driver)}")
    if len(status.gpus) > 1:
        parts.append(f"{len(status.gpus)} GPUs")
    lost = Content.styled(" · ! another GPU is not usable", "$warning") if status.unusable else Content("")
    return Content.assemble(" · ".join(parts), lost)
