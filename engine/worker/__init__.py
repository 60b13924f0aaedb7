"""The heavy side: only here torch, transformers, peft, trl, bitsandbytes, gguf and llama_cpp are imported.

Nothing imports this package; it is started by name: `python -P -m engine.worker RUN STAGES`.
"""
