"""Objectives: losses on rows of whole teams."""
