"""The bridge to RLlib: the only room that knows its internals."""
