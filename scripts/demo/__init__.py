"""How the bundled demo is made: a small synthetic world, its tokenizer, and a tiny model pretrained on it."""
