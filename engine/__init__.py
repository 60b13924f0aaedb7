"""The light engine: presets, data, plans, runs. Imports neither torch nor textual; see docs/architecture.md."""
