"""Why a run cannot go on."""


class TrainingError(RuntimeError):
    """A reason that a user should read as a sentence, without a traceback."""
