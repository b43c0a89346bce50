"""GhostRun: settings, cells of a map, the batched world, scripts, pictures."""
