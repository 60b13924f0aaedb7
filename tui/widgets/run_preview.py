"""The run under the cursor: its loss, and what there is to know before opening it."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from engine.runs import RunInfo
from engine.text import clean_line
from engine.units import format_bytes
from tui.widgets.columns import Section
from tui.widgets.loss_chart import LossChart
from tui.widgets.run_text import data_name, stage_of


class RunPreview(Vertical):
    """A small loss chart beside a few facts."""

    info: reactive[RunInfo | None] = reactive(None)

    def compose(self) -> ComposeResult:
        """Chart and facts."""
        yield Section(id="preview-title")
        with Horizontal(id="preview-body"):
            yield LossChart(id="preview-loss")
            yield Static(id="preview-facts")

    def watch_info(self, info: RunInfo | None) -> None:
        """Show another run, or the same one later."""
        if not self.is_mounted:
            return
        chart = self.query_one(LossChart)
        chart.steps, chart.evals = (info.state.steps, info.state.evals) if info else ((), ())
        self.query_one(Section).title = info.name if info else ""
        self.query_one("#preview-facts", Static).update(facts(info) if info else "")


def facts(info: RunInfo) -> Content:
    """Model, data, device, disk and the command that does the next thing."""
    plan, stage = info.plan, stage_of(info.state)
    rows: list[tuple[str, str]] = []
    if plan is not None:
        rows.append(("model", clean_line(plan.preset.name)))
        rows.append(("data", data_name(plan)))
        rows.append(("rows", f"{plan.summary.rows:,} × {plan.passes:.3g} epochs, {plan.summary.eval_rows:,} held out"))
        rows.append(("adapter", f"rank {plan.lora.rank}, learning rate {plan.train.learning_rate:g}"))
    if stage is not None and stage.device:
        rows.append(("on", clean_line(stage.device)))
    made = sum(output.size_bytes for output in info.state.outputs.values())
    if made:
        rows.append(("made", f"{len(info.state.outputs)} outputs, {format_bytes(made)}"))
    if info.problem:
        rows.append(("problem", clean_line(info.problem, 300)))
    if stage is not None and stage.failed is not None:
        rows.append(("failed", clean_line(stage.failed.title)))
    if info.next_action:
        rows.append(("next", clean_line(info.next_action)))
    return Content("\n").join(Content.assemble((f"{name:<9}", "$quiet"), text) for name, text in rows)
