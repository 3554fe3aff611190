"""What the command line needs before any command is loaded."""


class Interrupted(Exception):
    """Ctrl-C; the message says what is kept."""


def was_interrupted(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or what went wrong while that was being handled."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt | Interrupted):
            return True
        error = error.__context__
    return False


def one_line(text: object) -> str:
    """Text as one line without control characters, whatever a file or a runtime put into it."""
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "?" for character in line)


def examples(*commands: str) -> str:
    """The epilog of a command's help; the control character keeps the line breaks."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)
