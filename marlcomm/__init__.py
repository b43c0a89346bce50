"""marlcomm trains teams of agents that talk under a bit budget, and counts the bits honestly."""

from marlcomm.lazy import lazy

__version__ = "0.1.0"
__getattr__, __dir__ = lazy("marlcomm", {"Team": "deployment", "load_policy": "deployment"})
