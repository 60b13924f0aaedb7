"""Export: is what I export what I trained?"""

from __future__ import annotations

import time
from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Static

from engine import disk, launch
from engine.config import QUANTS, Quant, StageName, StageOptions
from engine.errors import FinetuiError, FitError, MissingError, UsageError
from engine.paths import RunDir
from engine.plan import Plan
from engine.runs import load_plan, slug
from engine.state import RunState, Status
from engine.text import clean_line
from engine.units import format_bytes
from tui import messages, verbs
from tui.feeds import RunFeed
from tui.modals.ask import Answer, AskModal
from tui.modals.confirm import ConfirmModal
from tui.modals.error import describe_error
from tui.run_screen import RunScreen
from tui.widgets.certificate import Certificate
from tui.widgets.columns import Section
from tui.widgets.quant_picker import QuantPicker, QuantRow
from tui.widgets.run_text import mark_of
from tui.widgets.stage_list import StageList, StageRow
from tui.widgets.title_bar import TitleBar

STAGES: dict[StageName, str] = {
    "merge": "fold the adapter into the base, in 16 bits",
    "gguf": "convert, then quantize what is ticked",
    "certify": "prove that the files are what was trained",
    "ollama": "o gives it to Ollama",
}


class ExportScreen(RunScreen):
    """Files to make, the stages that make them, and the proof."""

    CSS_PATH = "export.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (108, "-wide")]
    BINDINGS = [
        Binding("enter", "start", "Export", tooltip="run what is missing: merge, GGUF, certificate"),
        Binding("s", "stop", "Stop", tooltip="stop at the next safe point; what is whole is kept"),
        Binding("o", "ollama", "Ollama", tooltip="create a model in the local Ollama"),
        Binding("t", "chat", "Chat", tooltip="talk to the exported model"),
        Binding("q,escape", "app.back", "Leave", key_display="esc", tooltip="back; the worker goes on"),
    ]

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self.run = run
        self.state, self.status = RunState(), None
        self.plan, self.problem = _plan_of(run)
        self._feed = RunFeed(self, run)
        self._stop_asked = False

    state: RunState
    status: Status | None
    plan: Plan | None

    def compose(self) -> ComposeResult:
        """Files and stages side by side where there is room, the certificate below."""
        yield TitleBar()
        with VerticalScroll(id="export-body", can_focus=False):
            with Container(id="export-top"):
                with Vertical(id="export-work"):
                    yield Section("stages")
                    yield StageList(id="stages")
                    yield Static(id="export-next")
                    yield Static(id="export-problem")
                with Vertical(id="export-files"):
                    yield Section("files to make")
                    yield QuantPicker(id="quants")
            yield Section("certificate", id="certificate-rule")
            yield Certificate(id="certificate")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to follow."""
        picker = self.query_one(QuantPicker)
        wanted: Sequence[Quant] = self.plan.export.quants if self.plan else ("Q4_K_M",)
        picker.chosen = frozenset(quant for quant in wanted if quant != "bf16")
        self._show()
        picker.focus()
        picker.cursor = next((at for at, row in enumerate(picker.rows) if row.quant in picker.chosen), 0)
        self._feed.start()
        self.set_interval(1.0, self._tick)

    def on_unmount(self) -> None:
        """Nobody looks any more."""
        self._feed.stop()

    def on_run_changed(self, event: messages.RunChanged) -> None:
        """New events, or the worker came or went."""
        was_busy, first = self.busy, self.status is None
        self.state, self.status = event.state, event.status
        if event.status is not Status.RUNNING:
            self._stop_asked = False
        if (self.busy and not was_busy) or (first and not self.due()):
            self.query_one(StageList).focus()
        self._show()
        if first or self.busy is not was_busy:
            # What comes next, so that Enter out of habit does not do again what is done.
            self.query_one(StageList).cursor = list(STAGES).index(next(iter(self.due()), "ollama"))
        self.refresh_bindings()

    def _tick(self) -> None:
        self.query_one(StageList).now = time.time()

    @property
    def busy(self) -> bool:
        """True while a worker works on this run."""
        return self.status is Status.RUNNING

    @property
    def quants(self) -> tuple[Quant, ...]:
        """What is ticked, the largest first."""
        chosen = self.query_one(QuantPicker).chosen
        return tuple(quant for quant in QUANTS if quant in chosen)

    # ── what is shown ────────────────────────────────────────────────────────────────────────────────────

    def _show(self) -> None:
        self.query_one(QuantPicker).rows = self._quant_rows()
        stages = self.query_one(StageList)
        stages.busy = self.busy
        stages.rows = [self._stage_row(name) for name in STAGES]
        self._tick()
        certificate = self.query_one(Certificate)
        certificate.checks = self.state.checks
        self.query_one("#certificate-rule", Section).note = self._verdict()
        self._show_problem()
        self._show_title()
        self.query_one("#export-next", Static).update(self._next())

    def _quant_rows(self) -> list[QuantRow]:
        return [self._quant_row(quant) for quant in QUANTS]

    def _quant_row(self, quant: Quant) -> QuantRow:
        path = self.run.gguf(quant)
        try:
            return QuantRow(quant, path.stat().st_size, made=True)
        except OSError:
            return QuantRow(quant, disk.gguf_bytes(self.plan.preset, quant) if self.plan else 0, made=False)

    def _stage_row(self, name: StageName) -> StageRow:
        state = self.state.stages.get(name)
        status = state.status if state is not None else None
        if status is Status.RUNNING and not (self.busy and self.state.current == name):
            status = Status.LOST
        made = [output for output in self.state.outputs.values() if output.stage == name]
        result = " · ".join(f"{_short(output.path)} {format_bytes(output.size_bytes)}" for output in made)
        if name == "certify" and self.state.checks:
            result = f"{sum(check.passed for check in self.state.checks)} of {len(self.state.checks)} passed"
        return StageRow(name, STAGES[name], state, status, result)

    def _verdict(self) -> Content:
        checks = self.state.checks
        if not checks:
            return Content("")
        failed = sum(not check.passed for check in checks)
        if failed:
            return Content.styled(f"✗ {failed} of {len(checks)} failed", "bold $error")
        if self.busy and self.state.current == "certify":
            return Content(f"{len(checks)} passed so far")
        return Content.styled(f"✓ all {len(checks)} passed", "bold $success")

    def _show_problem(self) -> None:
        panel = self.query_one("#export-problem", Static)
        stage = self.state.stages.get(self.state.current) if self.state.current else None
        words = Content("")
        if self.problem is not None:
            words = describe_error(self.problem.title, self.problem.detail, self.problem.hints)
        elif not self.busy and stage is not None and stage.name in STAGES and stage.failed is not None:
            words = describe_error(stage.failed.title, stage.failed.detail, stage.failed.hints)
        elif self.status is Status.LOST and stage is not None and stage.name in STAGES:
            words = describe_error("The worker vanished without a word", launch.log_tail(self.run, 4))
        panel.update(words)
        panel.display = bool(words.cell_length)

    def _show_title(self) -> None:
        bar = self.query_one(TitleBar)
        name = clean_line(self.plan.slug if self.plan else self.run.name)
        mark = mark_of(self.state, self.status).content() if self.status is not None else Content("")
        bar.left = Content.assemble((name, "bold $tuned"), "  export  ", mark)
        if self._stop_asked:
            bar.right = Content.styled("‖ stopping at the next safe point…", "$warning")
        else:
            needs = self._missing_bytes()
            free = format_bytes(disk.free_disk(self.run.path))
            wanted = f"needs {format_bytes(needs)} more, " if needs else ""
            bar.right = Content.styled(f"disk: {wanted}{free} free", "$quiet")

    def _next(self) -> Content:
        if self.busy:
            return Content("")
        if not self.run.adapter.is_dir():
            return Content.styled("! nothing to export yet: training has not made an adapter", "$warning")
        due = self.due()
        if due:
            return Content.assemble(("⏎ ", "$primary"), f"runs {', '.join(due)}")
        return Content.assemble(("✓ ", "$success"), "all made and certified   ", ("t ", "$primary"), "chat")

    # ── what is due ──────────────────────────────────────────────────────────────────────────────────────

    def due(self) -> list[StageName]:
        """The stages that stand between the adapter and certified files."""
        wanted: set[Quant] = {"bf16", *self.quants}
        missing = any(not self.run.gguf(quant).is_file() for quant in wanted)
        stages: list[StageName] = ["merge"] if not self.run.merged.is_dir() and missing else []
        if missing:
            stages.append("gguf")
        if missing or not (self._is_proved(self.quants) and self._passed):
            stages.append("certify")
        return stages

    def _is_proved(self, quants: Sequence[Quant]) -> bool:
        """True if the certificate passed for each of these files."""
        covered = {check.form for check in self.state.checks}
        failed = {check.form for check in self.state.checks if not check.passed}
        return self.run.certificate.is_file() and covered.issuperset(quants) and failed.isdisjoint(quants)

    @property
    def _passed(self) -> bool:
        return all(check.passed for check in self.state.checks)

    def _missing_bytes(self) -> int:
        if self.plan is None:
            return 0
        wanted: list[Quant] = ["bf16", *self.quants]
        files = sum(disk.gguf_bytes(self.plan.preset, quant) for quant in wanted if not self.run.gguf(quant).is_file())
        return files + (2 * self.plan.preset.parameters if "merge" in self.due() else 0)

    @on(QuantPicker.Changed)
    def _chosen(self) -> None:
        self._show()

    # ── what can be done ─────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what the run's status allows."""
        if not super().check_action(action, parameters):
            return False
        if action == "stop":
            return self.busy
        if action in ("chat", "ollama"):
            return not self.busy and bool(self.run.ggufs)
        return True

    def action_start(self) -> None:
        """Run what is due."""
        due = self.due()
        if due:
            self._begin(due)
        else:
            self.app.notify("All made and certified. Tab to a stage and Enter runs it again.", markup=False)

    @on(StageList.Wanted)
    def _again(self, event: StageList.Wanted) -> None:
        if event.stage == "ollama":
            self.action_ollama()
        else:
            self._begin([event.stage])

    def _begin(self, stages: Sequence[StageName], options: StageOptions | None = None) -> None:
        try:
            self._require(stages)
        except FinetuiError as error:
            self.post_message(messages.Problem(error))
            return
        chosen = options or StageOptions(quants=self.quants or ("bf16",))
        verbs.attempt(self, lambda: launch.start(self.run, stages, chosen))

    def _require(self, stages: Sequence[StageName]) -> None:
        """Raise what a person should know before a stage is started."""
        if self.problem is not None:
            raise self.problem
        if self.busy:
            raise UsageError("A worker is already running on this run", clean_line(self.run.name), ("s stops it.",))
        if not self.run.adapter.is_dir():
            hint = "Train it to its end first; a stopped training can be resumed on its own screen."
            raise MissingError("There is no adapter to export yet", clean_line(str(self.run.adapter)), (hint,))
        free, needs = disk.free_disk(self.run.path), self._missing_bytes()
        if needs > free and stages[0] in ("merge", "gguf"):
            raise FitError(
                "The export does not fit on the disk",
                f"needs {format_bytes(needs)}, {format_bytes(free)} is free at {clean_line(str(self.run.path))}",
                ("Free some space, or untick a file.",),
            )

    def action_stop(self) -> None:
        """Ask the worker to stop."""
        self._stop_asked = launch.request_stop(self.run)
        self._show_title()

    def action_chat(self) -> None:
        """Go to the chat."""
        self.post_message(messages.Open("chat", self.run))

    def action_ollama(self) -> None:
        """Ask for the name, then create it."""
        if not self.run.ggufs:
            hint = "Enter on the files makes them."
            self.post_message(messages.Problem(MissingError("There is no GGUF file yet", "", (hint,))))
            return
        name = slug(self.plan.slug) if self.plan else self.run.name
        modal = AskModal(
            "What shall it be called in Ollama?",
            "Then: ollama run <name>",
            name,
            "take the name even if it exists",
        )
        self.app.push_screen(modal, self._named)

    def _named(self, answer: Answer | None) -> None:
        if answer is None:
            return
        options = StageOptions(name=answer.text, replace=answer.checked)
        if self._is_proved(self.plan.export.quants[:1] if self.plan else ()):
            self._begin(["ollama"], options)
            return
        modal = ConfirmModal(
            "Give it to Ollama without a certificate?",
            "No certificate that passed says that this file is what was trained.",
            yes="Give it all the same",
            no="Leave it",
        )
        self.app.push_screen(modal, lambda yes: self._insisted(yes, options))

    def _insisted(self, yes: bool | None, options: StageOptions) -> None:
        if yes:
            self._begin(["ollama"], options.model_copy(update={"uncertified": True}))


def _short(path: str) -> str:
    return clean_line(path).removeprefix("model.").removesuffix(".gguf")


def _plan_of(run: RunDir) -> tuple[Plan | None, FinetuiError | None]:
    try:
        return load_plan(run), None
    except UsageError as error:
        return None, error
