"""How the shipped checkpoints were made: `python -m training`. Nothing else imports this."""
