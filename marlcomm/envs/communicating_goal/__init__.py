"""Communicating Goal: settings, walks of those who know less than all, the batched world, scripts, pictures."""
