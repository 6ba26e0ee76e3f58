"""What a path has to run: found in files as people write them, good and bad."""

import json
from pathlib import Path
from typing import Any

import pytest

from windlass_operator.local.project import Found, Project, ProjectError

TASK = "from windlass import task\n\n@task\ndef {name}() -> int:\n    return 1\n"


async def look(path: Path) -> Found:
    return await Project(path).look()


def tasks(found: Found) -> dict[str, str]:
    return {body["metadata"]["name"]: body["spec"]["entrypoint"] for _, body in found.objects if body["kind"] == "Task"}


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def resource(name: str, kind: str = "Task", **spec: Any) -> str:
    body = {"apiVersion": "windlass.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return f"---\n{json.dumps(body)}\n"


async def test_modules_of_a_folder_are_found_by_the_names_that_they_are_imported_by(tmp_path: Path) -> None:
    write(tmp_path / "order.py", TASK.format(name="order"))
    write(tmp_path / "src/shop/__init__.py", "")
    write(tmp_path / "src/shop/jobs.py", TASK.format(name="tidy_up") + "from order import order\n")
    write(tmp_path / "tool.py", "raise SystemExit('not for import')\n")
    write(tmp_path / "test_order.py", TASK.format(name="wrong"))
    write(tmp_path / ".venv/lib/thing.py", TASK.format(name="hidden"))
    write(tmp_path / "env/pyvenv.cfg", "")
    write(tmp_path / "env/lib/thing.py", TASK.format(name="installed"))
    found = await look(tmp_path)
    assert not found.problems
    assert tasks(found) == {"order": "order:order", "tidy-up": "shop.jobs:tidy_up"}
    assert str(tmp_path / "src") in found.python_path


async def test_what_cannot_be_imported_is_told_with_its_line_and_the_rest_is_found(tmp_path: Path) -> None:
    write(tmp_path / "good.py", TASK.format(name="good"))
    write(tmp_path / "syntax.py", TASK.format(name="a") + "x = (\n")
    write(tmp_path / "raises.py", TASK.format(name="b") + "\n\nraise ValueError('no key')\n")
    write(tmp_path / "leaves.py", TASK.format(name="c") + "import sys\nsys.exit(3)\n")
    found = await look(tmp_path)
    assert tasks(found) == {"good": "good:good"}
    said = {Path(one.file).name: (one.line, one.message) for one in found.problems}
    assert said["syntax.py"] == (6, "SyntaxError: '(' was never closed")
    assert said["raises.py"] == (8, "ValueError: no key")
    assert said["leaves.py"] == (7, "SystemExit: 3")


async def test_a_module_that_ends_the_process_is_told(tmp_path: Path) -> None:
    write(tmp_path / "gone.py", TASK.format(name="gone") + "import os\nos._exit(9)\n")
    (problem,) = (await look(tmp_path)).problems
    assert "cannot be imported: exit code 9" in problem.message


async def test_two_tasks_of_one_name_are_told(tmp_path: Path) -> None:
    write(tmp_path / "a.py", TASK.format(name="order"))
    write(tmp_path / "b.py", TASK.format(name="order"))
    found = await look(tmp_path)
    assert tasks(found) == {"order": "a:order"}
    assert "Task 'order' is also in" in found.problems[0].message


async def test_two_files_of_one_module_name_are_told(tmp_path: Path) -> None:
    write(tmp_path / "a/order.py", TASK.format(name="one"))
    write(tmp_path / "b/order.py", TASK.format(name="two"))
    (problem,) = (await look(tmp_path)).problems
    assert "are both module 'order'" in problem.message


async def test_a_task_of_a_yaml_file_wins_over_a_function_of_that_name(tmp_path: Path) -> None:
    write(tmp_path / "order.py", TASK.format(name="order"))
    write(tmp_path / "order.yaml", resource("order", image="shop:1", entrypoint="order:order", timeout="5m"))
    found = await look(tmp_path)
    ((_, body),) = found.objects
    assert body["spec"]["timeout"] == "5m"
    assert body["spec"]["image"].startswith("local:")
    assert "image shop:1 is ignored" in found.notes[0]


async def test_yaml_of_other_programs_is_left_alone_and_broken_yaml_of_ours_is_told(tmp_path: Path) -> None:
    write(tmp_path / "values.yaml", "a: {{ .Values.x }}\n  b")
    write(tmp_path / "ours.yaml", "apiVersion: windlass.dev/v1alpha1\nkind: Task\nmetadata: {name: x\n")
    write(tmp_path / "more.yaml", resource("a-run", "Run", taskRef={"name": "x"}) + "---\nkind: ConfigMap\n")
    found = await look(tmp_path)
    assert [body["metadata"]["name"] for _, body in found.objects] == ["a-run"]
    (problem,) = found.problems
    assert (Path(problem.file).name, problem.line) == ("ours.yaml", 4)


async def test_queues_and_pools_are_found_and_what_has_no_effect_here_is_noted(tmp_path: Path) -> None:
    text = resource("payments", "Queue", concurrency=2) + resource("fast", "WorkerPool") + resource("x", "Approval")
    found = await look(write(tmp_path / "all.yaml", text))
    assert [body["metadata"]["name"] for _, body in found.objects] == ["payments", "fast"]
    (note,) = found.notes
    assert "Approval has no effect on this machine" in note


async def test_an_edit_of_an_imported_module_is_a_new_version(tmp_path: Path) -> None:
    write(tmp_path / "prices.py", "PRICE = 1\n")
    write(tmp_path / "order.py", "import prices\n" + TASK.format(name="order"))
    project = Project(tmp_path / "order.py")
    first = (await project.look()).objects[0][1]["spec"]["image"]
    assert not project.changed()
    write(tmp_path / "prices.py", "PRICE = 20\n")
    assert project.changed()
    assert (await project.look()).objects[0][1]["spec"]["image"] != first
    assert not project.changed()


async def test_a_yaml_file_without_anything_of_ours_is_told(tmp_path: Path) -> None:
    (problem,) = (await look(write(tmp_path / "x.yaml", "kind: ConfigMap\n"))).problems
    assert "it has no Queue, WorkerPool, Task or Run" in problem.message


def test_a_path_that_is_nothing_for_us_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="There is no"):
        Project(tmp_path / "nothing")
    with pytest.raises(ProjectError, match="neither Python nor YAML"):
        Project(write(tmp_path / "a.txt", ""))
