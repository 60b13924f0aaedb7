"""The commands of `finetui`, a module for each noun; each has `add(commands)`, which declares its parsers."""
