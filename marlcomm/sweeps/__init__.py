"""Sweeps: one config under many settings, each a run of its own, side by side on Ray Tune."""
