"""marlcomm trains teams of agents that talk under a bit budget, and counts the bits honestly."""

__version__ = "0.1.0"
