"""`python -m ti_backbones.run`: as Python runs a program, but with the ti_* models among timm's."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, timm, beside
print(json.dumps({"name": __name__, "file": __file__, "argv": sys.argv, "first": sys.path[0], "main":
    sys.modules["__main__"].__dict__ is globals(), "known": timm.is_model("ti_resnet18")}))
sys.exit(int(sys.argv[-1]))
"""


def python(*arguments, cwd):
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train.py").write_text(SCRIPT)
    (tmp_path / "scripts" / "beside.py").touch()
    return tmp_path


def seen(done) -> dict:
    assert done.returncode == 3, done.stderr  # the program's own exit code
    return json.loads(done.stdout)


def test_a_script_finds_what_python_gives_it_and_the_models_too(folder):
    path = folder / "scripts" / "train.py"
    plain = seen(python(path, "--model", "x", "3", cwd=folder))
    ours = seen(python("-m", "ti_backbones.run", path, "--model", "x", "3", cwd=folder))
    assert not plain["known"]
    assert ours == plain | {"known": True}


@pytest.mark.slow
def test_a_module_finds_what_python_gives_it_and_the_models_too(folder):
    plain = seen(python("-m", "train", "--model", "x", "3", cwd=folder / "scripts"))
    ours = seen(python("-m", "ti_backbones.run", "-m", "train", "--model", "x", "3", cwd=folder / "scripts"))
    assert ours == plain | {"known": True}


def test_errors_of_the_program_are_its_own(folder):
    (folder / "fails.py").write_text("from ti_backbones.errors import InputError\nraise InputError('of the program')")
    done = python("-m", "ti_backbones.run", "fails.py", cwd=folder)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "of the program" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such.py"], "no script 'no_such.py': give the path of a Python file"),
        (["scripts"], "no script 'scripts'"),
        (["-m", "no_such_module"], "no module 'no_such_module': install it"),
        (["-m", "json.no_such"], "no module 'json.no_such'"),
        (["-m", "sys.path"], "no module 'sys.path'"),
        (["-m"], "no script '-m'"),
    ],
)
def test_a_program_that_is_not_there_is_one_line(folder, arguments, words, monkeypatch, capsys):
    from ti_backbones.run import main

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_help(capsys):
    from ti_backbones.run import main

    assert main(["--help"]) == 0
    assert main([]) == 2
    assert capsys.readouterr().out.count("usage: python -m ti_backbones.run SCRIPT") == 2
