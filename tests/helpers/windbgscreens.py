"""What a user of WinDbg reads after typing ``!py poolleak ...``: the whole way, over a fake pykd."""

from __future__ import annotations

import functools

from dumps.forge import forge
from tests.conftest import PROJECT
from tests.helpers.fakepykd import FakePykd
from tests.helpers.fakepykd_console import run_py

ENTRY = PROJECT / "pykdext" / "poolleak.py"


@functools.cache
def sample_machine(scenario="pipo", build=19041, **options):
    """The forged machine of a scenario: nobody changes it."""
    return forge(scenario, build=build, **options)


def type_command(command, fake):
    """Type ``!py COMMAND`` (``poolleak ...`` or ``-m pykdext ...``) in the session of ``fake``; how it ended."""
    if command.startswith("-m pykdext"):
        return run_py("pykdext", command[len("-m pykdext") :], fake, as_module=True)
    assert command.startswith("poolleak"), command
    return run_py(ENTRY, command[len("poolleak") :], fake)


def windbg_session(command, fake=None):
    """The text that ``!py COMMAND`` shows; without a fake in a session on the dump of README's sample machine."""
    return type_command(command, fake or FakePykd.of_machine(sample_machine())).text
