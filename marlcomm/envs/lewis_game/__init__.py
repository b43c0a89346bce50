"""The Lewis game: settings, the fewest symbols of a round, stored rounds, their files, the world, scripts."""
