"""Run many steered versions of one batch: from one recorded pass where the model allows it, with hooks otherwise.

`engine` replays a batch, `hooked` runs it by full forward passes, and `agreement` compares the two.
"""
