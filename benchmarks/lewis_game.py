"""Rounds of the Lewis game: seconds to make 10,000 of each minimum on one thread, best of 3."""

import torch
from common import best_of, report

from marlcomm.envs.lewis_game.rounds import acceptance, build_rounds
from marlcomm.envs.lewis_game.settings import Game

GAMES = {
    "minimum 2": Game(2),
    "minimum 3": Game(3),
    "minimum 1, 10 distractors": Game(1, distractors=10),
    "minimum 4, 450 distractors": Game(4, distractors=450),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    report(
        "lewis_game",
        seconds_for_10000_rounds={
            label: round(best_of(3, lambda game=game: build_rounds(game, 8000, 2000, 0)), 2)
            for label, game in GAMES.items()
        },
        accepted_share={label: round(acceptance(game).share, 4) for label, game in GAMES.items()},
    )
