"""An alarm reaches whoever reads the log, once."""

from k2.run.alarms import AlarmTail, raise_alarm


def test_an_alarm_is_read_once_from_the_growing_log(tmp_path, capsys):
    raise_alarm("checkpoint rescue_stage1_000004 could not be saved: the disk is full")
    said = capsys.readouterr().err
    log = tmp_path / "trainer.log"
    tail = AlarmTail(log)
    assert tail.new() == []
    log.write_text(f"k2.train: attempt 1 trains\n{said}k2.train: ALA")
    assert tail.new() == ["checkpoint rescue_stage1_000004 could not be saved: the disk is full"]
    with log.open("a") as file:
        file.write("RM: again\n")
    assert tail.new() == ["again"]
    assert tail.new() == []
