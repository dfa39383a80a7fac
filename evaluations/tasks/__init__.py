"""Text, video and control tasks that a memory policy is judged on."""

from __future__ import annotations


def register_all() -> None:
    """Makes the project's own control tasks known to Gymnasium; calling it again does nothing."""
    from evaluations.tasks.control import item_stream, popgym_recall, remembered_reacher, tmaze

    for task in (tmaze, remembered_reacher, popgym_recall, item_stream):
        task.register()
