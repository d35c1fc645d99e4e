# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
import textwrap
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fedclave import plan as plans
from fedclave.errors import PlanError, UserError
from fedclave.learners.base import PRIVATE, Site, blame
from fedclave.messages import Pull, Task
from fedclave.workspace import assemble
from fedclave.workspace.layout import Workspace, create, templates

PLAN = """\
schema: 1
name: test
rounds: 2
learner: {build: src.learner:build}
tasks:
  train: {run: fit}
  validate: {run: evaluate, on: [global]}
"""
LEARNER = """\
import numpy as np
from fedclave.learners.numpy import Fit, NumpyLearner

class Model:
    def weights(self):
        return {"w": np.zeros(2, np.float32)}

    def fit(self, weights, *, epochs: int = 1):
        return Fit(params=weights, examples=1)

    def evaluate(self, weights):
        return Fit(examples=1)

def build(site, size: int = 1):
    return NumpyLearner(Model())
"""
SITE = Site(member="alice", data=None, device="cpu")


@pytest.fixture
def make(tmp_path):
    def write(name="w", plan=PLAN, **files):
        root = tmp_path / name
        for path, text in {"src/learner.py": LEARNER, "plan/plan.yaml": plan, **files}.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(textwrap.dedent(text))
        workspace = Workspace(root)
        return workspace, plans.load(workspace.plan)

    return write


def problems(workspace, plan):
    with pytest.raises(PlanError) as error:
        assemble.check(workspace)
    return [(p.line, p.path, p.reason, p.remedy) for p in error.value.problems]


@pytest.mark.parametrize("name", templates())
def test_templates_are_checked_and_have_weights(name, tmp_path):
    pytest.importorskip("torch" if name.startswith("torch") else "numpy")
    workspace = create(name, tmp_path / "dots. and spaces \u00fc")
    plan = plans.load(workspace.plan)
    assemble.check(workspace)
    assert all(np.isfinite(a).all() for a in assemble.initial(workspace, plan, 1).values())


@pytest.mark.parametrize(
    "line",
    [
        "from .helper import VALUE",
        "from src.helper import VALUE",
        "from src import helper; VALUE = helper.VALUE",
        "import src.helper; VALUE = src.helper.VALUE",
        "import src.helper as h; VALUE = h.VALUE",
        "from src.deep.inner import VALUE",
        "from .deep.inner import VALUE",
        "from src.helper import *",
        "def late():\n    from src.helper import VALUE\n    return VALUE\nVALUE = late()",
    ],
)
def test_every_way_to_import_ones_own_code_works_and_two_workspaces_do_not_clash(make, line):
    made = {}
    for value in (1, 2):
        files = {
            "src/learner.py": f"{line}\n{LEARNER}    return VALUE\n".replace(
                "return NumpyLearner(Model())\n    ",
                "learner = NumpyLearner(Model())\n    learner.value = VALUE\n    return learner\n#",
            ),
            "src/helper.py": f"VALUE = {value}\n",
            "src/deep/inner.py": "from src.helper import VALUE\n",  # a folder without __init__.py
        }
        made[value] = assemble.learner(*make(f"w{value}", **files), SITE)
    assert {value: learner.value for value, learner in made.items()} == {1: 1, 2: 2}


def test_an_import_that_runs_later_finds_its_own_workspace(make):
    late = LEARNER.replace(
        "        return Fit(examples=1)",
        "        from src.helper import VALUE\n"
        "        return Fit(examples=1, metrics={'v': VALUE})",
    )
    task = Task(name="v", run="evaluate", round=1, seed=0)
    learners = [
        assemble.learner(
            *make(f"w{v}", **{"src/learner.py": late, "src/helper.py": f"VALUE = {v}"}), SITE
        )
        for v in (1, 2)
    ]
    assert [made.run(task, {}, Pull()).metrics["v"] for made in learners] == [1, 2]


def test_importing_leaves_path_and_modules_as_they_were(make):
    path, modules = list(sys.path), set(sys.modules)
    assemble.learner(*make(), SITE)
    assert sys.path == path
    assert all(name.startswith(PRIVATE) for name in set(sys.modules) - modules)
    assert "src" not in sys.modules


def test_a_failed_import_leaves_nothing(make):
    workspace, plan = make(**{"src/learner.py": "from src.helper import x", "src/helper.py": "y=1"})
    before = set(sys.modules)
    with pytest.raises(UserError):
        assemble.learner(workspace, plan, SITE)
    assert set(sys.modules) == before


def test_members_in_one_process_share_no_state(make):
    workspace, plan = make(
        **{
            "src/learner.py": LEARNER.replace("class Model", "SEEN = []\nclass Model").replace(
                "    return NumpyLearner(Model())",
                "    SEEN.append(site)\n    made = NumpyLearner(Model())\n"
                "    made.seen = SEEN\n    return made",
            )
        }
    )
    one, two = (assemble.learner(workspace, plan, SITE) for _ in range(2))
    assert len(one.seen) == len(two.seen) == 1


def test_only_source_is_run_and_no_bytecode_is_written(make):
    workspace, plan = make()
    assemble.learner(workspace, plan, SITE)
    assert not list(workspace.root.rglob("__pycache__"))
    evil = workspace.root / "evil" / "src" / "learner.py"
    evil.parent.mkdir(parents=True)
    evil.write_text("raise SystemExit('planted bytecode ran')\n" + "#" * 500)
    command = "import py_compile, sys; py_compile.compile(sys.argv[1], sys.argv[2])"
    tag = sys.implementation.cache_tag
    planted = workspace.src / "__pycache__" / f"learner.{tag}.pyc"
    subprocess.run([sys.executable, "-c", command, evil, planted], check=True)
    raw = bytearray(planted.read_bytes())
    raw[4:8] = (1).to_bytes(4, "little")  # PEP 552: hash-based, unchecked
    planted.write_bytes(raw)
    assert assemble.learner(workspace, plan, SITE) is not None


USER_MISTAKES = {
    "no module": ({"src/learner.py": "import no_such_thing"}, "src/learner.py:1: ModuleNotFound"),
    "how to get it": ({"src/learner.py": "import no_such_thing"}, "pip install -r requirements"),
    "no own module": ({"src/learner.py": "from src.no import x"}, "there is no src/no.py"),
    "no name": (
        {"src/learner.py": "\nfrom src.a import b", "src/a.py": "c = 1"},
        "src/learner.py:2: ImportError: cannot import name 'b'",
    ),
    "syntax": ({"src/learner.py": "x = 1\ndef broken(:\n"}, "src/learner.py:2: SyntaxError"),
    "syntax deeper": (
        {"src/learner.py": "from src.a import b", "src/a.py": "\n\nb = = 1\n"},
        "src/a.py:3: SyntaxError",
    ),
    "null bytes": ({"src/learner.py": "x = '\0'"}, "SyntaxError|ValueError"),
    "top level": ({"src/learner.py": "x = 1\n\n1 / 0\n"}, "src/learner.py:3: ZeroDivisionError"),
    "exit": ({"src/learner.py": "import sys\nsys.exit(3)\n"}, "src/learner.py:2: SystemExit: 3"),
    "package": (
        {"src/learner.py": "import src.p", "src/p/__init__.py": "x\n"},
        "src/p/__init__.py:1: NameError",
    ),
    "no function": ({"src/learner.py": "Build = 1"}, "has no function 'build'"),
    "not a function": ({"src/learner.py": "build = 1"}, "has no function 'build'"),
    "raises": (
        {"src/learner.py": "def build(site):\n    return len(3)\n"},
        "src/learner.py:2: TypeError: object of type 'int'",
    ),
    "not a learner": (
        {"src/learner.py": "def build(site):\n    return 3\n"},
        "returned a int, which has no weights.* NumpyLearner",
    ),
    "needs a setting": (
        {"src/learner.py": LEARNER.replace("size: int = 1", "size")},
        "src.learner:build needs the setting 'size'",
    ),
    "no site": ({"src/learner.py": "def build():\n    pass\n"}, "build"),
}


@pytest.mark.parametrize("name", USER_MISTAKES)
def test_mistakes_in_the_users_code_have_file_line_and_reason(make, name):
    files, words = USER_MISTAKES[name]
    workspace, plan = make(**files)
    with pytest.raises(UserError, match=words):
        assemble.learner(workspace, plan, SITE)
    place = "learner.settings.size" if name == "needs a setting" else "learner.build"
    assert problems(workspace, plan)[0][:2] == (4, place)


def test_the_place_of_an_error_in_a_task_is_the_users_line(make):
    broken = LEARNER.replace("return Fit(examples=1)", "return [].pop()")
    learner = assemble.learner(*make(**{"src/learner.py": broken}), SITE)
    line = 1 + broken.splitlines().index("        return [].pop()")
    with pytest.raises(IndexError) as error:
        learner.run(Task(name="v", run="evaluate", round=1, seed=0), {}, Pull())
    assert blame(error.value) == f"src/learner.py:{line}: IndexError: pop from empty list"


def test_code_comes_from_src_only(make):
    workspace, plan = make(plan=PLAN.replace("src.learner:build", "os.path:join"))
    with pytest.raises(UserError, match="not in this workspace's src/"):
        assemble.learner(workspace, plan, SITE)


def test_all_mistakes_come_at_once_with_their_lines(make):
    plan = PLAN.replace("{run: fit}", "{run: fit, epoch: 3}").replace("run: evaluate", "run: judge")
    plan += "algorithm: {name: fedsgd}\nassignment: {function: src.learner:assign}\n"
    found = problems(*make(plan=plan))
    assert [(line, path) for line, path, _, _ in found] == [
        (6, "tasks.train.epoch"),
        (7, "tasks.validate.run"),
        (8, "algorithm.name"),
        (9, "assignment.function"),
    ]
    assert found[0][2:] == ("Model.fit takes no setting 'epoch'", "It takes: epochs.")
    assert found[1][3] == "It can run: evaluate, fit."
    assert "fedavg" in found[2][3]


def test_mistakes_of_the_schema_hide_none_in_what_is_named(make):
    text = PLAN.replace("rounds: 2", "rounds: many").replace(
        "name: test", "name: test\ncolour: red"
    )
    text = text.replace("build}", "build, settings: {sice: 3, size: big}}")
    text = text.replace("{run: fit}", "{run: fit, epoch: 3, epochs: x}")
    text = text.replace("on: [global]", "on: [globe]")
    text += "algorithm: {name: fedavg, rate: 1, learning_rate: fast}\n"
    text += "assignment: {function: src.nobody:assign, sample: 3}\nquorum: {minimum: 500}\n"
    workspace = make()[0]
    workspace.plan.write_text(text)
    assert [(line, path) for line, path, _, _ in problems(workspace, None)] == [
        (3, "colour"),
        (4, "rounds"),
        (5, "learner.settings.sice"),
        (5, "learner.settings.size"),
        (7, "tasks.train.epoch"),
        (7, "tasks.train.epochs"),
        (8, "tasks.validate.on[0]"),
        (9, "algorithm.rate"),
        (9, "algorithm.learning_rate"),
        (10, "assignment.sample"),
        (10, "assignment.function"),
        (11, "quorum.minimum"),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("src.learner:build", "src/learner.py"),
        ("build}", "build, settings: {size: [1]}}"),
        ("{run: fit}", "{run: 3}"),
    ],
)
def test_what_is_broken_itself_is_not_judged_further(make, old, new):
    workspace = make()[0]
    workspace.plan.write_text(PLAN.replace(old, new))
    assert len(problems(workspace, None)) == 1


def test_a_setting_of_build_that_it_does_not_take_is_found(make):
    plan = PLAN.replace("build}", "build, settings: {sice: 3}}")
    assert "It takes: size." in problems(*make(plan=plan))[0][3]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("{}", "Return named arrays"),
        ("None", "AttributeError"),
        ("{'w': np.array(['a'])}", "dtype <U1"),
        ("{'w': np.array([np.nan])}", "'w' has a value that is not finite"),
        ("{1: np.zeros(1)}", "1 is a"),
        ("1 / 0", "src/learner.py:6: ZeroDivisionError"),
    ],
)
def test_weights_that_cannot_travel_are_found(make, weights, words):
    source = LEARNER.replace('{"w": np.zeros(2, np.float32)}', weights)
    workspace, plan = make(**{"src/learner.py": source})
    with pytest.raises(UserError, match=words):
        assemble.initial(workspace, plan, 1)
    with pytest.raises(PlanError, match=words):
        assemble.check(workspace)


ASSIGN = PLAN + "assignment: {function: src.who:assign}\n"


def test_the_users_assignment_function_is_called(make):
    source = "def assign(round, members, rng):\n    return {members[round]: ['train']}\n"
    workspace, plan = make(plan=ASSIGN, **{"src/who.py": source})
    assemble.check(workspace)
    assign = assemble.assignment_function(workspace, plan)
    assert assign(1, ["alice", "bob"], Random(1)) == {"bob": ["train"]}
    assert assemble.assignment_function(*make("other")) is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / 0", "src/who.py:2: ZeroDivisionError"),
        ("return ['alice']", "must return a dict"),
        ("return {'alice': 'train'}", "must return a dict"),
    ],
)
def test_an_assignment_function_that_fails_is_the_users(make, body, words):
    source = f"def assign(round, members, rng):\n    {body}\n"
    workspace, plan = make(plan=ASSIGN, **{"src/who.py": source})
    with pytest.raises(UserError, match=words):
        assemble.assignment_function(workspace, plan)(1, ["alice"], Random(1))


def test_an_assignment_function_with_other_parameters_is_refused(make):
    workspace, plan = make(plan=ASSIGN, **{"src/who.py": "def assign(members):\n    return {}\n"})
    with pytest.raises(UserError, match="round, members, rng"):
        assemble.assignment_function(workspace, plan)


def test_a_relative_workspace_path_works(make, monkeypatch):
    workspace, plan = make()
    monkeypatch.chdir(workspace.root)
    assert assemble.check(Workspace(Path())) == plan
