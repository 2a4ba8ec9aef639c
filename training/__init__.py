"""Training of the shipped checkpoints: `python -m training` and `python -m training.sae`. Not part of the wheel."""
