"""How the shipped checkpoints were made: vision tower, text backbone, then the two joined. Nothing else imports this."""
