"""What draws. A widget knows the engine's types only: data come in by reactive, and go out by message."""
