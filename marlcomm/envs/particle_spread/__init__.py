"""Particle Spread: settings, physics, what agents see, the batched world, scripts, pictures."""
