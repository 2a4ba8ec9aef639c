"""Which layer, how strong, which tokens: chosen on questions that are measured on nowhere else."""
