"""Predator-Prey: settings, walks of those who hear nothing, the batched world, scripts, pictures."""
