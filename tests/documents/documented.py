"""The shell lines of the README and of the first pages, each in one group, and the test that runs the lines of a group.

The tests take their command lines from here, so that the documented commands are the tested ones.
"""

from __future__ import annotations

import re

from tests.documents.test_docs import README, ROOT, SHELLS, blocks

TUTORIAL = ROOT / "docs/tutorial.md"
POLICIES = ROOT / "docs/howto/trained-policy.md"
SERVING = ROOT / "docs/serving.md"
FOLLOWED = (README, TUTORIAL, ROOT / "docs/commands.md", SERVING, ROOT / "docs/howto/services.md")
"""The documents of which every shell line is run."""
GROUPS = {
    "make": (r"make (install|run|test)", "tests/project/test_packaging.py", "test_make_starts_what_the_documents_say"),
    "services": (r"make (services|deploy|stop)", "tests/reliability/conftest.py", "services"),
    "deployments": (
        r'eval "\$\(make -s env\)"|prefect deployment run \S+ -p \S+',
        "tests/reliability/test_documented.py",
        "test_deployments_run_as_the_documents_say",
    ),
    "results": (
        r"softgrpo (doctor|config|runs|watch|open|report|recommend|score|refit|export|compare|run (shop|ml-100k debug))\b.*",
        "tests/documents/test_tutorial.py",
        "test_the_tutorial_can_be_followed",
    ),
    "several": (
        r"softgrpo (tune|multi-recaller|ablate) .*",
        "tests/reliability/test_groups.py",
        "test_the_commands_share_what_is_stored",
    ),
    "named": (
        r"softgrpo run steam .*",
        "tests/project/test_editor.py",
        "test_the_readmes_run_with_named_data_and_recallers",
    ),
    "hub": (
        r"softgrpo run \S+ full (small|large)",
        "tests/documents/test_tutorial.py",
        "test_without_the_hub_one_line_says_so",
    ),
}
"""Name of a group -> its lines, as a pattern; file and name of what runs them."""


def lines_of(block: str) -> list[str]:
    """Returns the lines of a shell block, without comments."""
    return [line for line in re.sub(r"\s*#.*", "", block).splitlines() if line]


def lines() -> list[str]:
    """Returns the shell lines of these documents, in order."""
    return lines_of("".join(text for path in FOLLOWED for kind, text in blocks(path) if kind in SHELLS))


def documented(group: str) -> list[str]:
    """Returns the lines of a group, each once, in order."""
    return list(dict.fromkeys(line for line in lines() if re.fullmatch(GROUPS[group][0], line)))
