"""Run by `make lint`: pyright must know every type that the public door shows, in full.

`pyright --verifytypes` asks it of every module; this keeps what `flask_delayq.__all__` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flask_delayq

ALSO_PUBLIC = ("flask_delayq.errors",)


def public_prefixes() -> tuple[str, ...]:
    """The dotted names under which pyright knows what the door exports."""
    names = [*ALSO_PUBLIC]
    for name in flask_delayq.__all__:
        thing = vars(flask_delayq)[name]
        module = thing.__module__ if isinstance(thing, type) else flask_delayq.__name__
        names.append(f"{module}.{name}")
    return tuple(names)


def verified_symbols() -> list[dict[str, Any]]:
    """What pyright found, symbol by symbol."""
    binaries = str(Path(sys.executable).parent)  # pyright looks for the package in PATH's python
    answer = subprocess.run(
        ["pyright", "--verifytypes", "flask_delayq", "--ignoreexternal", "--outputjson"],
        env={**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
    )
    symbols: list[dict[str, Any]] = json.loads(answer.stdout)["typeCompleteness"]["symbols"]
    return symbols


def is_gap(symbol: dict[str, Any]) -> bool:
    """Whether a type is unknown, or left for each checker to infer, at this very name.

    A public name that only mentions an internal class with an inferred attribute is none.
    """
    if symbol["isTypeKnown"]:
        return False
    messages = [found["message"] for found in symbol["diagnostics"]]
    return not symbol["isTypeAmbiguous"] or any("missing type" in text for text in messages)


def main() -> int:
    prefixes, symbols = public_prefixes(), verified_symbols()
    public = [s for s in symbols if f"{s['name']}.".startswith(tuple(f"{p}." for p in prefixes))]
    incomplete = [s for s in public if is_gap(s)]
    for symbol in incomplete:
        print(f"{symbol['name']}: type not known in full")
        for found in symbol["diagnostics"]:
            line = f":{found['range']['start']['line'] + 1}" if "range" in found else ""
            print(f"  {found.get('file', '')}{line}: {found['message']}")
    print(f"{len(public) - len(incomplete)} of {len(public)} public symbols are fully typed")
    return 1 if incomplete or not public else 0


if __name__ == "__main__":
    sys.exit(main())
