"""What a vector is made of, as text and as a picture."""
