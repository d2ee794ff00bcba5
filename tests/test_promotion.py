"""The champion moved by hand and back: refusals, the record, interruptions, and the commands."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from cgm2net import registry, tracking
from cgm2net.__main__ import main
from cgm2net.errors import ModelError
from cgm2net.promotion import happened, moves_table, path_of, promote, rollback, standings, who_moves

ROOT = Path(__file__).parents[1]
SAME = {"data_hash": "one", "metrics.a": "{}"}

Make = Callable[..., None]


@pytest.fixture
def make(project: Path) -> Make:
    """Register versions 1, 2, … of `cgm2net`, with the tags given for each."""

    def write(*tags: Mapping[str, str]) -> None:
        with tracking.run(project / "run.json", experiment="e", name="n", params={}, tags={}) as run:
            run_id = run.run_id
        client = tracking.connect()
        client.create_registered_model("cgm2net")
        for number, named in enumerate(tags, start=1):
            version = client.create_model_version("cgm2net", source="nowhere", run_id=run_id, tags=dict(named))
            assert int(version.version) == number

    return write


def standing() -> int | None:
    found = registry.version_of("cgm2net", alias="champion")
    return found.number if found else None


def ends() -> list[tuple[object, object]]:
    return [(move["from"], move["to"]) for move in registry.alias_moves("cgm2net", alias="champion")]


def move(start: int | None, end: int, *, at: int = 0, **facts: Any) -> dict[str, Any]:
    return {"when": f"2026-01-01T00:00:{at:02d}Z", "who": "ada", "why": "w", "from": start, "to": end, **facts}


def test_a_promotion_by_hand_is_recorded_with_who_why_and_what(make: Make) -> None:
    make(SAME, {**SAME, "model_sha256": "feed"})
    promote("cgm2net", 1, why="first", who="ada")
    made = promote("cgm2net", 2, why=" the maps of May ", who="bo")
    assert (made.before, made.after, standing()) == (1, 2, 2)
    assert str(made) == "champion of cgm2net: version 1 -> 2, recorded for bo"
    last = registry.alias_moves("cgm2net", alias="champion")[-1]
    known = {"from": 1, "to": 2, "who": "bo", "why": "the maps of May", "by": "promote", "forced": False}
    assert last == {**last, **known, "data_hash": "one", "model_sha256": "feed", "test": "metrics.a"}


@pytest.mark.parametrize(
    ("tags", "number", "why", "message"),
    [
        (SAME, 3, "w", r"model cgm2net has no version 3"),
        (SAME, 1, "w", r"version 1 of cgm2net is the champion already"),
        (SAME, 2, " ", r"no reason given; --why"),
        ({"data_hash": "two", "metrics.b": "{}"}, 2, "w", r"judged on tiles two, the champion, version 1, on one:"),
        (
            {"data_hash": "one", "metrics.b": "{}"},
            2,
            "w",
            r"the same tiles .* but by other settings or code of scoring",
        ),
        ({}, 2, "w", r"judged on tiles unknown"),
    ],
)
def test_a_promotion_that_nothing_speaks_for_is_refused(
    make: Make, tags: dict[str, str], number: int, why: str, message: str
) -> None:
    make(SAME, tags)
    promote("cgm2net", 1, why="first", who="ada")
    with pytest.raises(ModelError, match=message):
        promote("cgm2net", number, why=why, who="ada")
    assert (standing(), ends()) == (1, [(None, 1)])


def test_force_moves_to_what_was_judged_on_other_tiles_and_says_so(make: Make) -> None:
    make(SAME, {"data_hash": "two"})
    promote("cgm2net", 1, why="first", who="ada")
    promote("cgm2net", 2, why="new sensor", who="ada", force=True)
    assert standing() == 2
    assert registry.alias_moves("cgm2net", alias="champion")[-1]["forced"] is True


def test_each_rollback_goes_one_move_further_back(make: Make) -> None:
    make(SAME, SAME, SAME)
    for number in (2, 3, 1):
        promote("cgm2net", number, why="w", who="ada")
    assert rollback("cgm2net", why="dark", who="bo").after == 3  # not 2: by the record, not by the numbers
    assert rollback("cgm2net", why="darker", who="bo").after == 2
    with pytest.raises(ModelError, match="the record knows no version before version 2; `promote VERSION`"):
        rollback("cgm2net", why="w", who="bo")
    assert ends() == [(None, 2), (2, 3), (3, 1), (1, 3), (3, 2)]


def test_a_promotion_after_a_rollback_is_undone_to_where_the_rollback_led(make: Make) -> None:
    make(SAME, SAME, SAME)
    for number in (1, 2):
        promote("cgm2net", number, why="w", who="ada")
    rollback("cgm2net", why="w", who="ada")
    promote("cgm2net", 2, why="it was the data", who="ada")
    assert rollback("cgm2net", why="no", who="ada").after == 1


def test_without_a_champion_or_its_past_there_is_no_rollback(make: Make) -> None:
    make(SAME, SAME)
    with pytest.raises(ModelError, match="the record knows no version before none"):
        rollback("cgm2net", why="w", who="ada")
    promote("cgm2net", 1, why="w", who="ada")
    promote("cgm2net", 2, why="w", who="ada")
    tracking.connect().delete_model_version("cgm2net", "1")
    with pytest.raises(ModelError, match="has no version 1"):
        rollback("cgm2net", why="w", who="ada")
    assert standing() == 2


def test_an_interrupted_rollback_is_completed_and_recorded_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    make(SAME, SAME, SAME)
    for number in (1, 2, 3):
        promote("cgm2net", number, why="w", who="ada")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", _end)
        with pytest.raises(KeyboardInterrupt):
            rollback("cgm2net", why="w", who="ada")
    assert standing() == 3
    assert rollback("cgm2net", why="w", who="ada").after == 2
    assert ends() == [(None, 1), (1, 2), (2, 3), (3, 2)]


def test_a_promotion_that_was_interrupted_is_no_place_to_go_back_to(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(SAME, SAME, SAME)
    for number in (1, 2):
        promote("cgm2net", number, why="w", who="ada")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", _end)
        with pytest.raises(KeyboardInterrupt):
            promote("cgm2net", 3, why="w", who="ada")
    assert rollback("cgm2net", why="w", who="ada").after == 1
    rows = list(moves_table("cgm2net").columns[4].cells)
    assert rows == ["w", "w", "w (interrupted: it did not happen)", "w"]


def test_after_a_move_without_a_record_rollback_leads_to_the_last_place_recorded(make: Make) -> None:
    make(SAME, SAME, SAME)
    promote("cgm2net", 1, why="w", who="ada")
    tracking.connect().set_registered_model_alias("cgm2net", "champion", "3")
    assert moves_table("cgm2net").caption == "it was moved since without a record, not by this library"
    assert rollback("cgm2net", why="w", who="ada").after == 1


def _end(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@given(st.lists(st.integers(0, 4)))
def test_the_path_is_that_of_an_undo_history(steps: list[int]) -> None:
    """A number promotes that version, 0 rolls back."""
    path: list[int | None] = [None]
    moves: list[dict[str, Any]] = []
    for step in steps:
        if step == 0 and len(path) > 2:
            moves.append(move(path.pop(), path[-1] or 0, by="rollback"))
        elif step not in (0, path[-1]):
            moves.append(move(path[-1], step, by="promote"))
            path.append(step)
    assert path_of(moves, standing=path[-1]) == tuple(path)
    assert happened(moves, standing=path[-1]) == moves


def test_times_of_standing_follow_the_record() -> None:
    moves = [move(None, 1, at=1), move(1, 2, at=2), move(1, 3, at=3), move(3, 1, at=4)]  # 1 -> 2 never happened
    found = [(time.version, time.since[-3:], time.until and time.until[-3:]) for time in standings(moves, standing=1)]
    assert found == [(1, "01Z", "03Z"), (3, "03Z", "04Z"), (1, "04Z", None)]


@pytest.mark.parametrize(("moves", "standing"), [([move(None, 1)], 5), ([move(None, 1), move(5, 6)], 6)])
def test_an_end_that_the_record_does_not_know_is_not_guessed(moves: list[dict[str, Any]], standing: int) -> None:
    assert standings(moves, standing=standing)[0].until == "unknown"


def test_the_user_is_named_unless_another_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert (who_moves(None), who_moves(" bo "), who_moves(" ")) == ("ada", "bo", "ada")


def test_a_nameless_user_is_asked_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: {}["name"])
    with pytest.raises(ModelError, match="--who NAME"):
        who_moves(None)


def test_the_commands_move_and_show(make: Make, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(SAME, SAME)
    monkeypatch.setenv("LOGNAME", "ada")
    (project / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    assert run("promote", "1", "--why", "first").endswith("version none -> 1, recorded for ada\n")
    run("promote", "2", "--why", "better in May", "--who", "bo", "--name", "cgm2net")
    assert run("rollback", "--why", "worse in June").endswith("version 2 -> 1, recorded for ada\n")
    shown = run("moves")
    assert shown.startswith("champion of cgm2net: version 1")
    assert all(words in shown for words in ("bo (promote)", "ada (rollback)", "better in May", "worse in June"))
    record = json.loads(run("moves", "--json"))
    assert (record["standing"], [one["to"] for one in record["moves"]]) == (1, [1, 2, 1])
    refused = CliRunner().invoke(main, ["promote", "7", "--why", "w"])
    assert (refused.exit_code, refused.output.split(";")[0]) == (1, "error: model cgm2net has no version 7")
    assert CliRunner().invoke(main, ["rollback"]).exit_code == 2  # a reason must be given


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.output
