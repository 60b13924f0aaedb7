"""What the screens of one run have in common: they notice when its folder is deleted under them."""

from __future__ import annotations

from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from tui import messages
from tui.widgets.title_bar import TitleBar

GONE = Content.styled("✗ This run was deleted: its folder is gone, and nothing can be done with it. ", "bold $error")


class RunScreen(Screen[None]):
    """A screen that shows a run; once the run is gone it says so, and offers only to leave."""

    WAYS_OUT: tuple[str, ...] = ()
    """The screen's own actions that lead away from it."""

    gone = False

    async def on_run_gone(self, _event: messages.RunGone) -> None:
        """Say so above everything; what was shown stays to be read."""
        self.gone = True
        self.query("Input, StageList, QuantPicker").set(disabled=True)
        self.set_focus(None)
        leave = Content.assemble(("esc ", "$primary"), "leaves")
        await self.mount(Static(Content.assemble(GONE, leave), id="gone"), after=self.query_one(TitleBar))
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Of a run that is gone nothing is offered but the way out."""
        own = {binding.action for binding in self.BINDINGS if isinstance(binding, Binding)}
        return not self.gone or action not in own or action in self.WAYS_OUT
