"""The undisturbed run that all others must end like, and a count of what was done to them."""

import pytest


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """Working folder of an undisturbed run, and what each command was like."""
    import json

    import faulty

    folder = faulty.prepared(tmp_path_factory.mktemp("reference") / "work")
    undisturbed = {}
    for name, command in faulty.COMMANDS.items():
        ended = faulty.run(command, folder)
        assert ended.code == 0, ended.said
        undisturbed[name] = faulty.Undisturbed(ended.seconds, json.loads((folder / faulty.CALLS).read_text()))
    return folder, undisturbed


@pytest.fixture(scope="session")
def tally(request):
    """Told at the end of all."""
    import faulty

    found = faulty.Tally()
    yield found
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{found.table()}")
