"""The documents' numbers are those of today, and a wrong file is one line."""

import json
import subprocess

import claims
import gallery
import pytest
import results
import yaml

TABLE = "row,all,all_half\nLIFT,81.817,0.675\n+SG,83.292,0.856\n"
MADE = {"made_by": "python measure.py", "commit": "abc1234", "date": "2026-11-24", "depends": ["code.py"]}
CLAIM = {"document": "README.md", "says": "| LIFT | 81.8 ± 0.7 |", "by": "study", "table": "t.csv", "row": "LIFT",
         "columns": ["all", "all_half"]}
ROOT = claims.Path(claims.__file__).parents[1]


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A made repository without git; what it is called with changes its one claim, and it returns exit code and output."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "docs/results/t.csv").write_text(TABLE)
    (tmp_path / "README.md").write_text("Sixteen notebooks.\n| LIFT | 81.8 ± 0.7 | [-0.3, +2.3]\n769 times, 13,064\n")
    (tmp_path / "code.py").write_text("1")
    return tmp_path


def check(root, capsys, made=None, **changes):
    claim = {key: value for key, value in {**CLAIM, **changes}.items() if value is not None}
    content = {"measurements": {"study": {**MADE, **(made or {})}}, "claims": [claim]}
    (root / "docs/claims.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    code = claims.main(root)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def git(root, *arguments):
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", root, *settings, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
def test_the_documents_of_this_repository_say_what_is_found_today():
    file = claims.read(ROOT / "docs/claims.yaml")
    claims.dated(file, ROOT)
    assert claims.check(file, ROOT) == []
    assert {"README.md", "docs/results.md", "docs/statistics.md"} <= {claim.document for claim in file.claims}
    claims.ages(file, ROOT)  # or a commit is unknown


def test_numbers_as_they_are_printed():
    def said(text):
        return [value for value, _ in claims.Claim(document="", by="", says=text).values()]

    assert said("-0.6 [-1.3, +0.1] 608,270 and 10, 20") == [-0.6, -1.3, 0.1, 608270, 10, 20]
    assert said("CIFAR-100-LT 0.489 lambda_3 2^20 s_1") == [0.489, 2]
    (_, whole), (_, tenth) = claims.Claim(document="", by="", says="5 and 5.0").values()
    assert (whole, tenth) == pytest.approx((0.5, 0.05))


def test_numbers_that_agree(kit, capsys):
    code, out, _ = check(kit, capsys)
    assert (code, out.splitlines()) == (0, ["ages are not known: the whole git history is not here",
                                            "1 claims, 2 numbers compared, 0 disagree"])
    recomputed = {"table": None, "row": None, "columns": None}
    assert check(kit, capsys, **recomputed, says="769 times, 13,064", recompute=["gate_rate", "folded_block"])[0] == 0
    assert check(kit, capsys, **recomputed, says="Sixteen notebooks", value=[16], recompute=["notebooks"])[0] == 0
    assert check(kit, capsys, **recomputed, says="[-0.3, +2.3]")[0] == 0  # its age alone


def test_numbers_that_do_not_agree(kit, capsys):
    (kit / "docs/results/t.csv").write_text(TABLE.replace("81.817", "82.3"))
    code, out, _ = check(kit, capsys)
    assert (code, out.splitlines()[0]) == (1, "README.md, '| LIFT | 81.8 ± 0.7 |': says 81.8, and t.csv, row LIFT, all is 82.3")
    assert check(kit, capsys, tolerance=0.6)[0] == 0
    assert check(kit, capsys, says="| LIFT | 81.9 ± 0.7 |")[1].startswith("README.md no longer says '| LIFT | 81.9 ± 0.7 |'\n")


@pytest.mark.parametrize(("changes", "line"), [
    ({"sayz": "x"}, "claims 0: there is no key 'sayz'. Did you mean 'says'?"),
    ({"made": {"dependz": []}}, "measurements study: there is no key 'dependz'. Did you mean 'depends'?"),
    ({"made": {"date": "yesterday"}}, "measurements study: 'date': Input should be a valid date"),
    ({"says": None}, "claims 0: 'says': Field required."),
    ({"by": "studies"}, "there is no measurement 'studies'. Did you mean 'study'?"),
    ({"document": "READ.md"}, "there is no document READ.md."),
    ({"table": "u.csv"}, "there is no table u.csv in docs/results."),
    ({"row": "LIFTS"}, "t.csv has no row 'LIFTS'. Did you mean 'LIFT'?"),
    ({"columns": ["all", "all_halff"]}, "t.csv, row LIFT has no number 'all_halff'. Did you mean 'all_half'?"),
    ({"columns": ["all"]}, "it says 2 numbers, and 1 are named to compare with them."),
    ({"table": None, "run": "runs/gone"}, "there is no finished run at runs/gone."),
    ({"run": "runs/gone"}, "it may name one of recompute, table and run."),
    ({"table": None, "recompute": ["gate_rat"]}, "nothing recomputes 'gate_rat'. Did you mean 'gate_rate'?"),
    ({"made": {"commit": ""}}, "measurement study: made_by, commit or date is missing, and docs/results/made.json"),
    ({"made": {"depends": ["gone.py"]}}, "measurement study: it depends on gone.py, which is not there."),
])
def test_a_wrong_file_is_one_line(changes, line, kit, capsys):
    code, out, err = check(kit, capsys, **changes)
    assert (code, out) == (2, "")
    assert err.startswith("claims: ")
    assert err.count("\n") == 1
    assert line in err


@pytest.mark.parametrize(("content", "line"), [
    (None, "cannot read "), ("{", "cannot read "), ("- 1", "should be a valid dictionary"),
    ("measurement: {}", "there is no key 'measurement'. Did you mean 'measurements'?"),
    ("measurements: {}", "'claims': Field required")])
def test_a_file_that_is_none(content, line, kit, capsys):
    if content is not None:
        (kit / "docs/claims.yaml").write_text(content)
    assert claims.main(kit) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert line in err


@pytest.mark.slow
def test_a_run_is_read(kit, runs, capsys):
    (kit / "README.md").write_text(f"tail {100 * runs['lift'].metrics['results']['single']['mean']['accuracy']:.1f} %")
    (kit / "runs").symlink_to(runs["lift"].path.parent)
    changes = {"table": None, "row": None, "run": "runs/lift", "columns": ["mean"]}
    assert check(kit, capsys, says=(kit / "README.md").read_text(), **changes)[0] == 0


def test_ages(kit, capsys):
    """Only a commit to what a measurement depends on makes its document old."""
    git(kit, "init", "-q")
    git(kit, "add", ".")
    git(kit, "commit", "-qm", "measured")
    made = {"commit": git(kit, "rev-parse", "--short", "HEAD")}
    (kit / "README.md").write_text((kit / "README.md").read_text() + "more\n")
    git(kit, "commit", "-qam", "more")
    assert check(kit, capsys, made)[:2] == (0, "1 claims, 2 numbers compared, 0 disagree\n")
    (kit / "code.py").write_text("2")
    git(kit, "commit", "-qam", "other code")
    code, out, _ = check(kit, capsys, made)
    assert code == 0
    assert out.startswith("older than the code: README.md, study (2026-11-24): code.py changed since\n")
    known = {"study": {"command": "measure study", "commit": made["commit"], "date": "2026-11-25"}}
    (kit / "docs/results/made.json").write_text(json.dumps(known))
    assert check(kit, capsys, {"made_by": "", "commit": ""})[1].startswith("older than the code: README.md, study (2026-11-25)")
    code, _, err = check(kit, capsys)
    assert (code, err) == (2, "claims: measurement study: git knows no commit abc1234.\n")


def test_the_gallery_is_what_the_methods_say():
    """docs/methods.md is written by benchmarks/gallery.py and by nobody else."""
    assert gallery.page() == gallery.PAGE.read_text(encoding="utf-8")


def test_the_page_of_results_is_what_its_files_say():
    """Nobody writes into docs/results.md by hand, and nobody measures again without writing it anew."""
    assert results.page() == results.PAGE.read_text(encoding="utf-8")
