"""What the tests of data sets ask of a task that they prepared."""

from detpretrain.tasks import Task

BOXES = ["z1", "y1", "x1", "z2", "y2", "x2"]


def boxes(task: Task, case: str) -> list[list[float]]:
    """The boxes of objects.csv of a case, in the order of their ids."""
    return task.objects().query("case == @case")[BOXES].to_numpy().tolist()
