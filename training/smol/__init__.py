"""Training of the adapter of `smol-idefics3`: `python -m training.smol`. Not part of the wheel."""
