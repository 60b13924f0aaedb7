"""A conversation: questions as they were typed, answers as Markdown that grows while it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from engine.text import clean


@dataclass
class Turn:
    """One message of the conversation."""

    role: str
    text: str
    note: str = ""
    """What there is to say of an answer: tokens, speed, why it ended."""


class Answer(Vertical):
    """One answer with a line of figures under it."""

    DEFAULT_CSS = """
    Answer { height: auto; margin-bottom: 1; }
    Answer Markdown { padding: 0; margin: 0; background: transparent; }
    Answer Markdown > MarkdownBlock:last-of-type { margin-bottom: 0; }
    Answer .note { color: $quiet; height: auto; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        """The text and its figures; a link is text, nothing opens by itself."""
        yield Markdown(open_links=False)
        yield Static(Content.styled("…", "$quiet"), classes="note")

    async def add(self, text: str) -> None:
        """More of the answer."""
        if self._stream is None:
            self._stream = Markdown.get_stream(self.query_one(Markdown))
        await self._stream.write(clean(text))

    async def end(self, note: Content) -> None:
        """Nothing more comes."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
        self.query_one(".note", Static).update(note)


class Transcript(VerticalScroll):
    """The turns in their order; follows the newest unless one has scrolled up."""

    DEFAULT_CSS = """
    Transcript { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    Transcript .question { height: auto; margin-bottom: 1; padding-left: 1; border-left: outer $base; }
    Transcript .empty { height: auto; color: $quiet; margin-top: 1; }
    """
    BINDINGS = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
        Binding("g", "scroll_home", "Top", show=False),
        Binding("G", "scroll_end", "End", show=False),
    ]

    _following = True

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Whoever scrolls up reads on in peace; at the end the newest is followed again."""
        super().watch_scroll_y(old_value, new_value)
        self._following = new_value >= self.max_scroll_y - 1

    def watch_virtual_size(self) -> None:
        """The answer has grown."""
        if self._following:
            self.call_after_refresh(self.scroll_end, animate=False)

    async def show_empty(self, words: Content) -> None:
        """What to say while nothing was asked."""
        await self.remove_children()
        await self.mount(Static(words, classes="empty"))

    async def ask(self, text: str) -> Answer:
        """Add a question and the answer that is to come."""
        await self.query(".empty").remove()
        answer = Answer()
        await self.mount(Static(Content(clean(text)), classes="question"), answer)
        self._following = True
        return answer

    async def restore(self, turns: Sequence[Turn]) -> None:
        """Show questions and answers, in turn, of a conversation that was left."""
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            shown = await self.ask(question.text)
            await shown.add(answer.text)
            await shown.end(Content.styled(answer.note, "$quiet"))

    async def drop_last(self) -> None:
        """Take the last question and its answer away."""
        await self.remove_children(self.children[-2:])
