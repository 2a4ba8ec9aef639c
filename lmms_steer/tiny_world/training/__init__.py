"""How the shipped checkpoints were made: `python -m lmms_steer.tiny_world.training`. Nothing else imports this."""
