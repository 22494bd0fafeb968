"""Checks that every test which CONTRIBUTING.md (table of traps), spec/security.md (claims) and spec/failures.md (promises) name is a test of this repository."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST = re.compile(r"#\[(?:tokio::)?test[^\]]*\]\s+(?:#\[[^\]]*\]\s+)*(?:async )?fn (\w+)")
# Three words at least: shorter names in backticks are those of other things.
CLAIMED = re.compile(r"`([a-z0-9]+(?:_[a-z0-9]+){2,})`")


def main() -> int:
    sources = [path for crate in ROOT.glob("*/Cargo.toml") for path in crate.parent.rglob("*.rs")]
    tests = {name for path in sources for name in TEST.findall(path.read_text())}
    traps = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    named = [name for trap in traps for name in re.findall(r"`(\w+)`", trap.rsplit(" | ", 1)[1])]
    claims = [name for page in ("security", "failures") for name in CLAIMED.findall((ROOT / f"spec/{page}.md").read_text())]
    missing = [name for name in named + claims if name not in tests]
    print("\n".join(f"no test is called {name}" for name in missing) or f"{len(traps)} traps with {len(named)} tests, claims and promises with {len(claims)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
