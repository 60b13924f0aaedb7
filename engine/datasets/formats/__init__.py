"""The formats of rows, one file each: how it is recognised, and how it becomes messages or text."""
