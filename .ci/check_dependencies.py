"""Holds what Cargo.lock names to the licences, bans and sources of deny.toml.

`cargo deny check` does the same and more, but takes minutes to install.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    policy = tomllib.loads((ROOT / "deny.toml").read_text())
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    problems = [*wrong_sources(locked), *banned(locked, policy), *wrong_licences(policy)]
    print("\n".join(problems) or f"{len(locked)} packages, all as deny.toml wants them")
    return 1 if problems else 0


def wrong_sources(locked: list[dict]) -> Iterator[str]:
    """One registry, with checksums; only what is in this workspace has no source."""
    registries = {package["source"] for package in locked if "source" in package}
    if len(registries) != 1 or not all(registry.startswith("registry+") for registry in registries):
        yield f"not all from one registry: {sorted(registries)}"
    yield from (f"{package['name']} has no checksum" for package in locked if "source" in package and "checksum" not in package)


def banned(locked: list[dict], policy: dict) -> Iterator[str]:
    names = {ban["crate"] for ban in policy["bans"]["deny"]}
    yield from (f"{package['name']} is banned" for package in locked if package["name"] in names)


def wrong_licences(policy: dict) -> Iterator[str]:
    allowed = set(policy["licenses"]["allow"])
    for package in packages_of_platform(policy["graph"]["targets"][0]):
        if not is_allowed(package["license"] or "", allowed):
            yield f"{package['name']} {package['version']} has licence {package['license']!r}"


def packages_of_platform(platform: str) -> list[dict]:
    """With all features: what is compared with must be as free as what is built."""
    command = ["cargo", "metadata", "--locked", "--all-features", "--format-version", "1", "--filter-platform", platform]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    return json.loads(output)["packages"]


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Evaluates an SPDX expression: `AND` binds closer than `OR`, and `/` is an old way to write `OR`."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    try:
        verdict = any_of(tokens, allowed)
    except IndexError:
        return False
    return verdict and not tokens


def any_of(tokens: list[str], allowed: set[str]) -> bool:
    verdict = all_of(tokens, allowed)
    while tokens and tokens[0] == "OR":
        tokens.pop(0)
        # Both sides are read to their end, whatever the first one says.
        verdict = all_of(tokens, allowed) or verdict
    return verdict


def all_of(tokens: list[str], allowed: set[str]) -> bool:
    verdict = licence(tokens, allowed)
    while tokens and tokens[0] == "AND":
        tokens.pop(0)
        verdict = licence(tokens, allowed) and verdict
    return verdict


def licence(tokens: list[str], allowed: set[str]) -> bool:
    token = tokens.pop(0)
    if token == "(":
        verdict = any_of(tokens, allowed)
        tokens.pop(0)
        return verdict
    if tokens and tokens[0] == "WITH":
        # An exception gives permissions and takes none.
        del tokens[:2]
    return token in allowed


if __name__ == "__main__":
    sys.exit(main())
