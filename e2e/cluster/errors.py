"""The one exception that the command line turns into a message and exit code 1."""


class ClusterError(Exception):
    """Something a person has to act on.

    Args:
        what: What is wrong.
        where: The file, log or process to look at.
        todo: The next step, as a command when there is one.
    """

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        parts = [what]
        if where:
            parts.append(f"  where: {where}")
        if todo:
            parts.append(f"  to do: {todo}")
        super().__init__("\n".join(parts))
