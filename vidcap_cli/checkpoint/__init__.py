"""The folder of a checkpoint: settings, tokenizer and weights, read in numpy."""
