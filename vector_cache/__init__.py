"""The vectors that ship, `<backbone>/<concept>/<method>.safetensors`; index.yaml says what is here."""
