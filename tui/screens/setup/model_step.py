"""Step one: which model, with settings that are known to work for it."""

from __future__ import annotations

from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Input, Static

from engine.config import Preset
from engine.families import FAMILIES
from engine.text import clean_line
from engine.units import format_bytes, format_count
from tui.screens.setup.choices import number
from tui.theme import LEVEL
from tui.widgets.clean_input import CleanInput
from tui.widgets.preset_filter import HINT
from tui.widgets.preset_table import PresetRow, PresetTable


class PresetPane(VerticalScroll):
    """The facts of a preset; Tab goes there, and arrow keys scroll where they are more than the pane is high."""


class ModelStep(Container):
    """The list of presets, what there is to know of the one under the cursor, and a filter."""

    BINDINGS = [
        Binding("slash", "filter", "Filter", key_display="/", tooltip="show only the presets with these words"),
        Binding("o", "other", "Other model", tooltip="a model folder or a preset file of your own"),
    ]

    rows: reactive[Sequence[PresetRow]] = reactive((), init=False)

    class Chosen(Message):
        """Step one is answered."""

        def __init__(self, preset: Preset) -> None:
            super().__init__()
            self.preset = preset

    class OtherWanted(Message):
        """The person wants to name a model folder or a preset file."""

    def compose(self) -> ComposeResult:
        """The filter (hidden until it is asked for), the list, the details."""
        yield CleanInput(placeholder=HINT, id="preset-filter", select_on_focus=False)
        with Container(id="preset-panes"):
            with Vertical(id="preset-list"):
                yield Static(id="preset-heading")
                yield PresetTable(id="presets")
            with PresetPane(id="preset-pane"):
                yield Static(id="preset-detail")

    def on_mount(self) -> None:
        """The filter waits for `/`."""
        self.query_one("#preset-filter").display = False

    def choose(self, name: str) -> None:
        """Put the cursor on a preset."""
        self.query_one(PresetTable).choose(name)

    def focus_step(self) -> None:
        """The list takes the keys."""
        self.query_one(PresetTable).focus()

    def leave_filter(self) -> bool:
        """Close the filter; False if there is none."""
        field = self.query_one("#preset-filter", Input)
        if not field.display:
            return False
        field.value = ""
        field.display = False
        self.focus_step()
        return True

    def watch_rows(self) -> None:
        """Show them, with the cursor where it was."""
        table = self.query_one(PresetTable)
        table.rows = self.rows
        self._head()
        self._detail(table.current)

    def on_resize(self) -> None:
        """The heading stands on the list's columns."""
        self.call_after_refresh(self._head)

    def _head(self) -> None:
        self.query_one("#preset-heading", Static).update(self.query_one(PresetTable).heading())

    @on(Input.Changed, "#preset-filter")
    def _filter(self, event: Input.Changed) -> None:
        self.query_one(PresetTable).filter = event.value
        self._head()

    @on(Input.Submitted, "#preset-filter")
    def _filtered(self) -> None:
        self.focus_step()

    @on(PresetTable.Highlighted)
    def _show(self, event: PresetTable.Highlighted) -> None:
        self._detail(event.row)

    @on(PresetTable.Chosen)
    def _choose(self, event: PresetTable.Chosen) -> None:
        event.stop()
        self.post_message(self.Chosen(event.row.preset) if event.row else self.OtherWanted())

    def action_filter(self) -> None:
        """Type to filter."""
        field = self.query_one("#preset-filter", Input)
        field.display = True
        field.focus()

    def action_other(self) -> None:
        """Name a folder."""
        self.post_message(self.OtherWanted())

    def _detail(self, row: PresetRow | None) -> None:
        self.query_one("#preset-detail", Static).update(describe_preset(row) if row else _other())
        self.query_one(PresetPane).scroll_home(animate=False)


def describe_preset(row: PresetRow) -> Content:
    """What a person should know of a preset before choosing it."""
    preset, mark, family = row.preset, LEVEL[row.level], FAMILIES[row.preset.family]
    planned = f" · planned {row.planned}" if row.planned else ""
    here = "the weights are here" if row.local else f"{format_bytes(preset.download_bytes)} to download"
    size = f"{format_count(preset.parameters)} parameters · context {preset.context_length:,} tokens · {here}"
    licence = Content.assemble((preset.licence, "bold"), ". " if preset.licence_note else "", preset.licence_note)
    gated = Content.assemble(("! ", "$warning"), "gated: the hub asks you to accept the licence first")
    template = f"template {preset.family} · an answer ends with {family.end_of_turn} · {clean_line(preset.model)}"
    no_gguf = Content.assemble(("! ", "$warning"), "no GGUF yet: trains and merges, but cannot go into Ollama")
    lines = [
        Content.styled(preset.title, "bold"),
        Content(preset.good_at),
        Content.assemble((f"{mark.symbol} ", mark.style), row.fit, (planned, "$quiet")),
        licence,
        gated if preset.gated else None,
        None if family.exports else no_gguf,
        Content.styled(size, "$quiet"),
        Content.styled(_settings(preset), "$quiet"),
        Content.styled(template, "$quiet"),
    ]
    return Content("\n").join([line for line in lines if line is not None and line.cell_length])


def _settings(preset: Preset) -> str:
    train, lora = preset.train, preset.lora
    return (
        f"recommended: rank {lora.rank}, alpha {lora.alpha} · learning rate {number(train.learning_rate)} "
        f"{train.lr_scheduler_type} · batch {train.micro_batch_size * train.gradient_accumulation_steps} · "
        f"length {train.max_length:,} · {'4 bits (QLoRA)' if train.quantization == 'nf4' else '16 bits (LoRA)'}"
    )


def _other() -> Content:
    return Content.assemble(
        ("A model of your own", "bold"),
        "\nThe folder of a Hugging Face model (config.json, tokenizer, safetensors) of a known family, "
        "or a preset's TOML file. Enter asks for the path.",
    )
