"""Third-party PettingZoo environments as a batched world: copies of them, stepped here or in worker processes."""
