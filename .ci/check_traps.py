"""Checks that every test that CONTRIBUTING.md names in its table of traps is a test of this repository."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST = re.compile(r"#\[(?:tokio::)?test[^\]]*\]\s+(?:#\[[^\]]*\]\s+)*(?:async )?fn (\w+)")


def main() -> int:
    sources = [path for crate in ROOT.glob("*/Cargo.toml") for path in crate.parent.rglob("*.rs")]
    tests = {name for path in sources for name in TEST.findall(path.read_text())}
    traps = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    named = [name for trap in traps for name in re.findall(r"`(\w+)`", trap.rsplit(" | ", 1)[1])]
    missing = [name for name in named if name not in tests]
    print("\n".join(f"no test is called {name}" for name in missing) or f"{len(traps)} traps, {len(named)} tests")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
