"""Commands of the how-to pages, run as they stand there: a page that does not work is a red test."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from e2e.support import ROOT, environment

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_EXPRESSION = re.compile(r"\$\{\{\s*(\S+)\s*\}\}")


def blocks(page: str, language: str, **replaced: str) -> list[str]:
    """Return the code blocks of a page under ``docs/how-to`` in one language, with words replaced."""
    text = (ROOT / "docs" / "how-to" / page).read_text()
    for old, new in replaced.items():
        text = re.sub(rf"\b{old}\b", new, text)
    return [code for kind, code in _BLOCK.findall(text) if kind == language]


def shell(
    script: str, folder: Path, env: Mapping[str, str] | None = None, *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a script as GitHub does with ``shell: bash``, in a folder of its own."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    full = {**environment(), **(env or {})}
    done = subprocess.run(command, cwd=folder, env=full, text=True, capture_output=True, check=False, timeout=200)
    if check and done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode} of\n{script}\n{done.stdout}{done.stderr}")
    return done


class Job:
    """A job of GitHub Actions: its steps in order, with the files and variables by which they speak to each other.

    Args:
        text: The workflow.
        folder: Where the job works.
        env: Variables of the machine.
        secrets: By name.
    """

    def __init__(self, text: str, folder: Path, env: dict[str, str], secrets: dict[str, str]) -> None:
        [self._job] = yaml.safe_load(text)["jobs"].values()
        assert self._job["defaults"] == {"run": {"shell": "bash"}}, "shell() runs steps like this"
        self.folder, self._secrets = folder, secrets
        self._files = {name: folder / name for name in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in self._files.values():
            file.write_text("")
        self._env = env | {name: str(file) for name, file in self._files.items()} | {"RUNNER_TEMP": str(folder)}
        self._outputs: dict[str, str] = {}
        self.summary = self._files["GITHUB_STEP_SUMMARY"]

    def step(self, name: str) -> dict[str, Any]:
        """Return a step."""
        found: dict[str, Any] = next(step for step in self._job["steps"] if step["name"] == name)
        return found

    def run(self, *, stop_before: str = "") -> tuple[str, subprocess.CompletedProcess[str] | None]:
        """Run the steps that run in a job where nothing goes wrong; stop at one that fails and return it.

        Args:
            stop_before: Name of a step before which to stop.
        """
        for step in self._job["steps"]:
            if step["name"] == stop_before:
                break
            if "if" not in step:
                done = self.run_step(step["name"], check=False)
                if done.returncode != 0:
                    return step["name"], done
        return "", None

    def run_step(self, name: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one step."""
        step = self.step(name)
        given = {**self._env, **_pairs(self._files["GITHUB_ENV"])}
        for scope in (self._job, step):
            given |= {key: _EXPRESSION.sub(self._value, value) for key, value in (scope.get("env") or {}).items()}
        self._files["GITHUB_OUTPUT"].write_text("")
        done = shell(step["run"], self.folder, given, check=check)
        if "id" in step:
            outputs = _pairs(self._files["GITHUB_OUTPUT"])
            self._outputs |= {f"steps.{step['id']}.outputs.{key}": value for key, value in outputs.items()}
        return done

    def _value(self, match: re.Match[str]) -> str:
        name = match.group(1)
        return self._secrets[name.removeprefix("secrets.")] if name.startswith("secrets.") else self._outputs[name]


def _pairs(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())
