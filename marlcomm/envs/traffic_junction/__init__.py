"""Traffic Junction: geometry, settings, the batched world, scripted drivers, pictures."""
