"""From a conversation to token ids and what is trained of them: one way for training, the check and the preview.

Light: the `tokenizers` library and a Jinja sandbox, nothing of torch or transformers.
"""
