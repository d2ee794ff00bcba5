"""What the server does by itself about runs that have died."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest
from asked import deployments, eventually
from click.testing import CliRunner
from prefect.client.orchestration import get_client

from pipelines.__main__ import main
from pipelines.automations import CRASH, SILENT_SECONDS, crash_silent_runs
from pipelines.events import TAG


@pytest.mark.server
def test_a_run_whose_processes_are_all_killed_shows_as_crashed(
    project: Path, change: Callable[..., None], start: Callable[..., AbstractContextManager[subprocess.Popen[str]]]
) -> None:
    change("prepare", do="hang")
    os.mkfifo(project / "alive")
    with get_client(sync_client=True) as api:
        for left in api.read_automations_by_name(CRASH):
            api.delete_automation(left.id)
    with start("serve", "--cron", "0 3 * * 1") as process, get_client(sync_client=True) as api:

        def served() -> dict[str, Any] | None:
            assert process.poll() is None, process.communicate()[0]
            return deployments(project).get("retrain") if api.read_automations_by_name(CRASH) else None

        deployment = eventually(served)
        automation = crash_silent_runs(within_seconds=10)  # none but this run is at work; each sends a first heartbeat
        run = api.create_flow_run_from_deployment(deployment["id"])
        with (project / "alive").open() as alive:
            assert alive.readline() == "started\n"
            for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                one.send_signal(signal.SIGKILL)
        final = eventually(lambda: s if (s := api.read_flow_run(run.id).state) and s.is_final() else None)
        api.delete_automation(automation)
    assert final.is_crashed()
    assert "no heartbeat for 10 s" in str(final.message)


@pytest.mark.server
def test_the_automation_is_made_once_however_often_it_is_asked_for(server: dict[str, str]) -> None:
    for _ in range(2):
        done = CliRunner().invoke(main, ["automate"])
        assert done.exit_code == 0, done.output
    with get_client(sync_client=True) as api:
        (made,) = api.read_automations_by_name(CRASH)
        assert made.trigger.within.total_seconds() == SILENT_SECONDS
        assert made.trigger.match_related.model_dump()["prefect.resource.id"] == f"prefect.tag.{TAG}"
        api.delete_automation(made.id)
