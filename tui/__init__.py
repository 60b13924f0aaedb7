"""The terminal application. Knows the light engine; never imports torch and never trains."""
