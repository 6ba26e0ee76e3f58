"""Renders the CRDs from the models; ``generate`` writes them.

The same text goes to ``crds/`` and, wrapped in the chart's switches, into the chart.
"""

from pathlib import Path
from typing import Any, Final

import yaml

from windlass_operator.resources.crd_kinds import KINDS

Object = dict[str, Any]

_HEADER: Final = "# Generated from windlass_operator.resources by `make generate`. Do not edit.\n"
_PLAIN: Final = Path("crds")
_CHART: Final = Path("charts/windlass/templates/crds")


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as people write them, and repeats instead of using anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - the base's signature
        """Indent lists too."""
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base's signature
        """Never write anchors: not every reader of manifests follows them."""
        return True


def dump(document: Object) -> str:
    """Return a document as YAML, keys in the order given."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def render() -> dict[Path, str]:
    """Return every generated file, by its path in the repository."""
    files: dict[Path, str] = {}
    for make in KINDS:
        crd = make()
        name = f"{crd['metadata']['name']}.yaml"
        text = dump(crd)
        files[_PLAIN / name] = _HEADER + text
        files[_CHART / name] = for_chart(text)
    return files


def for_chart(text: str) -> str:
    """Return a CRD as a template of the chart: behind ``crds.install``, kept by ``crds.keep``."""
    # Braces in a description would be read as a template.
    text = text.replace("{{", '{{ "{{" }}')
    name, rest = text.split("metadata:\n", 1)
    switches = (
        "metadata:\n"
        "  labels:\n"
        '    {{- include "windlass.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    # Deleting a CRD deletes every object of its kind, so uninstalling the chart does not.\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
    )
    return f"{_HEADER}{{{{- if .Values.crds.install }}}}\n{name}{switches}{rest}{{{{- end }}}}\n"


def differences(root: Path) -> list[str]:
    """Return what is wrong with the committed files: stale, missing, or left over."""
    wanted = render()
    found = {path.relative_to(root) for folder in (_PLAIN, _CHART) for path in (root / folder).glob("*.yaml")}
    stale = [f"{p} is stale" for p, text in wanted.items() if p in found and (root / p).read_text("utf-8") != text]
    missing = [f"{path} is missing" for path in wanted if path not in found]
    return stale + missing + [f"{path} has no model" for path in sorted(found - set(wanted))]


def write(root: Path) -> None:
    """Write every generated file and remove the ones that have no model any more."""
    wanted = render()
    for folder in (_PLAIN, _CHART):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for path in (root / folder).glob("*.yaml"):
            if path.relative_to(root) not in wanted:
                path.unlink()
    for path, text in wanted.items():
        (root / path).write_text(text, "utf-8")
