"""Progress lines say how far, how fast and how long."""

from types import SimpleNamespace

from infoutil_jax import progress


def test_lines_give_the_rate_and_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 4.0, 12.0, 16.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert list(progress.track("abc", "score", total=3, unit="rows")) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["score: 2/3 rows, 0.167 rows/s, 6 s left", "score: 3/3 rows, 0.188 rows/s, 0 s left"]


def test_short_work_is_silent(capsys):
    assert list(progress.track(range(3), "score", total=3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.track(range(2), "score", total=2)) == [0, 1]
    assert "score: 100%" in capsys.readouterr().err
