"""Printing findings as text, JSON or GitHub annotations, and the exit status that follows."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from .finding import Finding, Mark, Severity

Findings = Mapping[Path, Sequence[Finding]]
"""The findings in each file that was checked."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--format` to a command that lists findings."""
    parser.add_argument(
        "--format",
        choices=sorted(FORMATS),
        default="text",
        help="how to print the findings (default: text)",
    )


def show(findings: Findings, form: str, stream: TextIO | None = None) -> int:
    """Print the findings. Return the exit status: 1 if one of them is an error, else 0."""
    text = FORMATS[form](findings)
    if text:
        print(text, file=stream)
    listed = (finding for found in findings.values() for finding in found)
    return int(any(finding.severity is Severity.ERROR for finding in listed))


def _as_text(findings: Findings) -> str:
    lines = []
    for file, found in findings.items():
        if not found:
            lines.append(f"{file}: nothing found")
        lines += (
            f"{file}:{finding.at.line}:{finding.at.column}: {finding.severity}: {finding.message} "
            f"[{finding.code}]\n    next: {finding.hint}"
            for finding in found
        )
    return "\n".join(lines)


def _as_json(findings: Findings) -> str:
    listed = []
    for file, found in findings.items():
        for finding in found:
            fields = asdict(finding)
            listed.append({"file": str(file), **fields.pop("at"), **fields})
    return json.dumps(listed, indent=2)


def _as_github(findings: Findings) -> str:
    # Source: GitHub's workflow commands. In a property, ':' and ',' must be escaped, too.
    def data(value: str) -> str:
        return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def place(file: Path, at: Mark) -> str:
        name = data(str(file)).replace(":", "%3A").replace(",", "%2C")
        return f"file={name},line={at.line},col={at.column}"

    return "\n".join(
        f"::{finding.severity} {place(file, finding.at)},title={finding.code}::"
        + data(f"{finding.message}. Next: {finding.hint}")
        for file, found in findings.items()
        for finding in found
    )


FORMATS: dict[str, Callable[[Findings], str]] = {
    "github": _as_github,
    "json": _as_json,
    "text": _as_text,
}
