"""How long the command line keeps people waiting: whole processes, best of 5."""

import subprocess
import sys

from common import best_of, report

COMMANDS = {
    "import marlcomm": ["-c", "import marlcomm"],
    "python alone": ["-c", "pass"],
    "marlcomm --help": ["-m", "marlcomm.cli", "--help"],
    "marlcomm list channels": ["-m", "marlcomm.cli", "list", "channels"],
    "a rejected config": ["-m", "marlcomm.cli", "train", "configs/demo.yaml", "channel.delt=1"],
}

if __name__ == "__main__":
    report(
        "startup",
        seconds={
            name: round(best_of(5, lambda a=arguments: subprocess.run([sys.executable, *a], capture_output=True)), 3)
            for name, arguments in COMMANDS.items()
        },
    )
