# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclave.errors import PlanError, UserError
from fedclave.plan import NAME
from fedclave.workspace.layout import Workspace
from fedclave.workspace.members import (
    LiveMembers,
    add_member,
    data_path,
    data_paths,
    members,
    remove_member,
    set_data_path,
    set_members,
)


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "plan").mkdir()
    return Workspace(tmp_path)


def test_without_the_file_nobody_is_a_member(workspace):
    assert members(workspace) == ()
    assert LiveMembers(workspace)() == frozenset()


def test_an_empty_list_is_nobody(workspace):
    for text in ("collaborators:", "collaborators: []"):
        workspace.members.write_text(text)
        assert members(workspace) == ()


def test_members_are_added_and_removed(workspace):
    add_member(workspace, "bob")
    add_member(workspace, "alice")
    add_member(workspace, "bob")
    assert members(workspace) == ("alice", "bob")
    remove_member(workspace, "bob")
    assert members(workspace) == ("alice",)
    with pytest.raises(UserError, match="Members: alice"):
        remove_member(workspace, "bob")


@settings(deadline=None)  # it writes and syncs files
@given(names=st.sets(st.from_regex(NAME, fullmatch=True), max_size=5))
def test_any_name_is_read_as_it_was_written(tmp_path_factory, names):
    workspace = Workspace(tmp_path_factory.mktemp("w"))
    set_members(workspace, names)
    assert members(workspace) == tuple(sorted(names))
    for name in names:
        set_data_path(workspace, name, workspace.root / "data" / name)
    assert set(data_paths(workspace)) == names


@pytest.mark.parametrize("name", ["1e5", "12", "true", "null", "on", "1.5", "0x1f"])
def test_names_that_look_like_other_yaml_stay_names(workspace, name):
    set_members(workspace, [name])
    assert members(workspace) == (name,)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("collaborators: [alice, alice]", 1, "'alice' is listed twice"),
        ("collaborators:\n  - alice\n  - ../bob\n", 3, "cannot be a member's name"),
        ("collaborators:\n  - alice\n  - 7\n", 3, "7 cannot be"),
        ("collaborators: alice", 1, "expected a list"),
        ("members: [alice]", 1, "'collaborators'"),
        ("[alice]", 1, "'collaborators'"),
        ("collaborators: [", 1, "not YAML"),
    ],
)
def test_mistakes_in_the_list_have_a_line(workspace, text, line, words):
    workspace.members.write_text(text)
    with pytest.raises(PlanError, match=words) as error:
        members(workspace)
    assert error.value.problems[0].line == line


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 65])
def test_impossible_names_are_not_written(workspace, name):
    with pytest.raises(UserError, match="cannot be a member's name"):
        add_member(workspace, name)
    assert not workspace.members.exists()


def test_live_members_follow_the_file(workspace):
    live = LiveMembers(workspace)
    assert live() == frozenset()
    for names in ({"alice"}, {"bob"}, {"bob", "carol"}):
        set_members(workspace, names)
        assert live() == live() == names
    workspace.members.unlink()
    assert live() == frozenset()


def test_a_list_that_breaks_while_running_admits_nobody(workspace):
    live = LiveMembers(workspace)
    set_members(workspace, ["alice"])
    assert live() == {"alice"}
    workspace.members.write_text("collaborators: [alice")
    for _ in range(2):
        with pytest.raises(PlanError):
            live()


def test_data_paths_are_relative_to_the_workspace_or_absolute(workspace, tmp_path):
    workspace.data_paths.write_text("alice: data/alice.npz\nbob: /mnt/bob\n")
    paths = data_paths(workspace)
    assert paths["alice"] == tmp_path / "data/alice.npz" and str(paths["bob"]) == "/mnt/bob"


def test_a_path_within_the_workspace_is_noted_relative(workspace, tmp_path):
    set_data_path(workspace, "alice", tmp_path / "data" / "a.npz")
    set_data_path(workspace, "bob", tmp_path.parent / "b.npz")
    text = workspace.data_paths.read_text()
    assert "alice: data/a.npz\n" in text and f"bob: {tmp_path.parent}/b.npz\n" in text


def test_data_that_is_unknown_or_missing_says_what_to_do(workspace, tmp_path):
    with pytest.raises(UserError, match="fx collaborator create -n alice -d PATH"):
        data_path(workspace, "alice")
    set_data_path(workspace, "alice", tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"is not at .*a.npz"):
        data_path(workspace, "alice")
    (tmp_path / "a.npz").touch()
    assert data_path(workspace, "alice") == tmp_path / "a.npz"


@pytest.mark.parametrize("text", ["[a]", "a/b: c", "alice: 3", "alice: ''", "3: data"])
def test_mistakes_in_the_data_file_are_refused(workspace, text):
    workspace.data_paths.write_text(text)
    with pytest.raises(PlanError, match=r"data\.yaml:1"):
        data_paths(workspace)
