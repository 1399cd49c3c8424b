import os
from types import SimpleNamespace

import pytest
from slurm_stand_in import stand_in

from detpretrain import slurm_queue
from detpretrain.errors import InputError
from detpretrain.slurm_queue import cancel, jobs_of, wait_until_gone

RUN = "5ea0f6a8-0c1d-4e57-9a3b-0123456789ab"
COMMENT = "rule_finetune_wildcards_nodules_retina_unet_resenc_mae_0_0"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return stand_in(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


@pytest.fixture
def pauses(monkeypatch):
    """The seconds that were slept, without sleeping them: the clock goes on instead."""
    slept, now = [], [0.0]

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(slurm_queue, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))
    return slept


def test_question_and_the_fields_of_the_answer(slurm, root):
    slurm.submit(7, RUN, COMMENT, root, used="1-02:03:04")
    (job,) = jobs_of(root)
    assert slurm.asked("squeue") == [
        "-h -a -t PENDING,CONFIGURING,RUNNING,SUSPENDED,STOPPED,COMPLETING -o %F|%A|%i|%T|%U|%M|%j|%k|%Z"
    ]
    assert (job.base, job.key, job.shown, job.state, job.user) == ("7", "7", "7", "RUNNING", os.getuid())
    assert (job.used, job.name, job.of_snakemake) == ("1-02:03:04", RUN, True)
    assert job.work == "finetune nodules_retina_unet_resenc_mae_0_0"


def test_jobs_of_other_directories_are_not_this_one_s(slurm, root, tmp_path):
    (tmp_path / "elsewhere" / "study").mkdir(parents=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "study").symlink_to(root)
    slurm.submit(1, RUN, COMMENT, tmp_path / "elsewhere" / "study")
    slurm.submit(2, RUN, COMMENT, root / "below")
    slurm.submit(3, RUN, COMMENT, tmp_path / "link" / "study")
    slurm.submit(4, RUN, COMMENT, f"{root}|more")
    assert [job.shown for job in jobs_of(root)] == ["3"]


@pytest.mark.parametrize(
    ("name", "comment", "of_snakemake", "work"),
    [
        (RUN, "rule_table", True, "table"),
        (f"cells-1_{RUN}", COMMENT, True, "finetune nodules_retina_unet_resenc_mae_0_0"),
        ("notebook", COMMENT, False, "notebook"),
        (RUN, "(null)", True, RUN),
        (RUN[:-1], COMMENT, False, RUN[:-1]),
    ],
)
def test_jobs_of_snakemake_are_told_from_a_user_s_own(slurm, root, name, comment, of_snakemake, work):
    slurm.submit(9, name, comment, root)
    (job,) = jobs_of(root)
    assert (job.of_snakemake, job.work) == (of_snakemake, work)


def test_lines_that_are_no_jobs_are_passed_over(slurm, root):
    (slurm.folder / "queue").write_text("CLUSTER: big\n\na|b|c\nslurm|1|1|R|x|1|n|c|/d\n")
    slurm.submit(5, RUN, COMMENT, root)
    assert [job.shown for job in jobs_of(root)] == ["5"]


def test_what_a_user_has_set_for_squeue_and_scancel_does_not_narrow_them(slurm, root, monkeypatch):
    for name in ("SQUEUE_USERS", "SQUEUE_STATES", "SCANCEL_STATE"):
        monkeypatch.setenv(name, "nobody")
    slurm.submit(5, RUN, COMMENT, root)
    cancel(jobs_of(root))
    assert (slurm.folder / "narrowed").read_text() == ""


def test_arrays_are_cancelled_as_a_whole_and_only_once(slurm, root):
    slurm.submit(20, RUN, COMMENT, root, key=21, shown="20_1")
    slurm.submit(20, RUN, COMMENT, root, shown="20_[2-6]", state="PENDING", used="0:00")
    slurm.submit(3, RUN, COMMENT, root)
    slurm.submit(4, RUN, COMMENT, root)
    chosen = [job for job in jobs_of(root) if job.shown != "4"]
    assert cancel(chosen) == ""
    assert slurm.asked("scancel") == ["-Q 3 20"]
    assert slurm.queued() == ["4"]
    assert wait_until_gone(root, chosen, 5.0) == []
    assert cancel([]) == ""
    assert len(slurm.asked("scancel")) == 1


def test_wait_asks_less_and_less_often_and_ends_in_time(slurm, root, pauses):
    (slurm.folder / "stubborn").write_text("3\n")
    slurm.submit(3, RUN, COMMENT, root)
    slurm.submit(4, RUN, COMMENT, root)
    jobs = jobs_of(root)
    assert "permission denied" in cancel(jobs)
    assert [job.shown for job in wait_until_gone(root, jobs, 30.0)] == ["3"]
    assert pauses == [1.0, 2.0, 5.0, 10.0, 10.0, 2.0]
    assert wait_until_gone(root, jobs[1:], 30.0) == []


def test_slurm_that_does_not_answer_is_one_line(slurm, root):
    (slurm.folder / "down").touch()
    with pytest.raises(InputError, match=r"squeue does not answer \(slurm_load_jobs error: Unable to contact"):
        jobs_of(root)


def test_without_slurm_there_is_nothing_to_ask(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not slurm_queue.available()
