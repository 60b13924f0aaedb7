"""`python -m tui.screens.setup` shows this screen alone."""

from tui.app import FinetuiApp
from tui.messages import Open

if __name__ == "__main__":
    app = FinetuiApp()
    app.call_later(app.post_message, Open("setup"))
    app.run()
